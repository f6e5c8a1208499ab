"""Many who ask at once for what nobody has asked for: it is fetched once."""

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
    """The log of PostgreSQL, with all that it is asked."""
    set_log(stack.postgres, "all")
    yield stack.postgres.dir / "log"
    set_log(stack.postgres, "none")


def set_log(postgres: Postgres, what: str) -> None:
    """Set which statements are logged, also of connections that are open."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET log_statement = '{what}'")
        connection.execute("SELECT pg_reload_conf()")
    wait_for(lambda: logged(postgres) == what)


def logged(postgres: Postgres) -> str:
    with psycopg.connect(postgres.url()) as newcomer:
        return newcomer.execute("SHOW log_statement").fetchone()[0]


def test_what_a_herd_asks_for_is_fetched_once_by_each_process(
    stack: Stack, statements: Path
):
    stack.site.get(
        f"/api/v1/items?search={uuid4().hex}"
    )  # what a process asks but once
    word = uuid4().hex
    answers = asyncio.run(herd(stack, f"/api/v1/items?search={word}"))
    assert {head.split()[1] for head, _ in answers} == {b"200"}
    assert len({body for _, body in answers}) == 1
    asked = [line for line in statements.read_text().splitlines() if word in line]
    fetched = [line for line in asked if "EXPLAIN" not in line]
    processes = psutil.Process(stack.site.process.pid).children()
    assert 1 <= len(fetched) <= len(processes), asked


async def herd(stack: Stack, path: str) -> list[tuple[bytes, bytes]]:
    """Let all ask in one moment, each over a connection of his own."""
    everybody_is_here = asyncio.Barrier(CLIENTS)
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    async def client() -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(stack.site.host, stack.site.port)
        await everybody_is_here.wait()
        writer.write(request.encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head, body

    return await asyncio.gather(*(client() for _ in range(CLIENTS)))
