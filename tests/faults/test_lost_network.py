"""A network that loses connections to the database without a word: all work again."""

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

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
