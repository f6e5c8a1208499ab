"""The database fails in ways that a stopped server does not show."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import psycopg
import pytest

from tests.events import Consumer
from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import Site
from tests.servers import Postgres, Redis
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.timeout(400)]

ITEMS, JOBS = "/api/v1/items/", "/api/v1/jobs/"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    yield from running(Postgres)


@pytest.fixture(scope="module")
def network(postgres) -> Iterator[Proxy]:
    with closing(Proxy(postgres.port)) as network:
        yield network


@pytest.fixture(scope="module")
def events(redis_server: Redis) -> Iterator[Consumer]:
    with closing(Consumer(redis_server.url())) as consumer:
        yield consumer


@pytest.fixture(scope="module")
def site(postgres, network, events, tmp_path_factory) -> Iterator[Site]:
    url = postgres.url().replace(f":{postgres.port}", f":{network.port}")
    folder = tmp_path_factory.mktemp("site")
    site, token, _ = Site.on_postgres(url, folder, EVENTS_URL=events.url)
    site.headers = {"Authorization": f"Token {token}"}
    try:
        yield site.start()
    finally:
        print(site.output()[-3_000:])  # shown when a test has failed
        site.stop()


@contextmanager
def locked(postgres: Postgres, table: str) -> Iterator[None]:
    with psycopg.connect(postgres.url()) as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


def degraded(site: Site) -> str:
    return site.get("/readyz").body.decode()


def write(site: Site) -> str:
    """Create an item, as a client that repeats what is rejected; return its id."""
    key = {"Idempotency-Key": f'"{uuid4()}"'} | site.headers
    item = {"name": "sent through a network"}
    answer = wait_for(
        lambda: (sent := site.request("POST", ITEMS, item, key)).status == 201 and sent
    )
    return answer.json()["id"]


def do_job(site: Site) -> None:
    job = {"task": "heavy_computation", "params": {"size": 1_000}}
    key = {"Idempotency-Key": f'"{uuid4()}"'} | site.headers
    answer = wait_for(
        lambda: (
            (sent := site.request("POST", JOBS, job, key)).status in (200, 202) and sent
        )
    )
    path = JOBS + answer.json()["id"]
    wait_for(lambda: site.get(path, **site.headers).json()["state"] == "succeeded")


def test_all_processes_work_again_after_a_lost_network(site, network, events):
    for _ in range(2):
        item = write(site)
        wait_for(lambda item=item: any(b["subject"] == item for b in events.bodies))
        do_job(site)
        network.lose()
    item = write(site)
    do_job(site)
    wait_for(lambda: any(body["subject"] == item for body in events.bodies))


# Less than a job waits for a lock.
IN_TIME = {"X-Request-Timeout": "9s"}


def test_locked_table_ends_requests_before_their_deadline(site, postgres):
    item = write(site)
    assert site.get(ITEMS + item).status == 200
    write(site)  # what was read may have changed since
    with locked(postgres, "items_item"):
        known = site.get(f"{ITEMS}{item}", **IN_TIME)
        assert (known.status, known.json()["id"]) == (200, item)
        unknown = site.get(f"{ITEMS}never-read", **IN_TIME)
        item = {"name": "waits for a lock"}
        written = site.request("POST", ITEMS, item, IN_TIME | site.headers)
        for answer in (unknown, written):
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert "locked" in answer.json()["detail"]
        wait_for(lambda: "degraded: database" in degraded(site))
    write(site)
    assert site.output().count("due to lock timeout") == 1
