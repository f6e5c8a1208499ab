"""Request coalescing: many clients ask at once for a response that is not cached."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest

from tests.faults.load import Stack
from tests.private_server import wait_for
from tests.servers import Postgres

pytestmark = pytest.mark.faults

CLIENTS = 200


@pytest.fixture
def statements(stack: Stack) -> Iterator[Path]:
    """The log of PostgreSQL, with all statements."""
    set_log(stack.postgres, "all")
    yield stack.postgres.dir / "log"
    set_log(stack.postgres, "none")


def set_log(postgres: Postgres, what: str) -> None:
    """Set which statements are logged, on open connections too."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET log_statement = '{what}'")
        connection.execute("SELECT pg_reload_conf()")
    wait_for(lambda: logged(postgres) == what)


def logged(postgres: Postgres) -> str:
    with psycopg.connect(postgres.url()) as connection:
        return connection.execute("SHOW log_statement").fetchone()[0]


def test_concurrent_misses_run_one_query_in_each_process(
    stack: Stack, statements: Path
):
    stack.site.get(f"/api/v1/items?search={uuid4().hex}")  # queries run only once
    word = uuid4().hex
    answers = asyncio.run(herd(stack, f"/api/v1/items?search={word}"))
    assert {head.split()[1] for head, _ in answers} == {b"200"}
    assert len({body for _, body in answers}) == 1
    queries = [line for line in statements.read_text().splitlines() if word in line]
    fetched = [line for line in queries if "EXPLAIN" not in line]
    processes = psutil.Process(stack.site.process.pid).children()
    assert 1 <= len(fetched) <= len(processes), queries


async def herd(stack: Stack, path: str) -> list[tuple[bytes, bytes]]:
    """Send all requests at one moment, each on a connection of its own."""
    all_are_connected = asyncio.Barrier(CLIENTS)
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    async def client() -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(stack.site.host, stack.site.port)
        await all_are_connected.wait()
        writer.write(request.encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head, body

    return await asyncio.gather(*(client() for _ in range(CLIENTS)))
