"""The database fails in ways that a stopped server does not show."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from uuid import uuid4

import psycopg
import pytest

from resilient_site.postgres.heartbeat import REPLACED_EVERY_S
from tests.events import Consumer
from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import Site
from tests.servers import Postgres, Redis
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.timeout(400)]

END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
ITEMS, JOBS = "/api/v1/items/", "/api/v1/jobs/"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    yield from running(Postgres)


@pytest.fixture(scope="module")
def network(postgres) -> Iterator[Proxy]:
    with closing(Proxy(postgres.port)) as network:
        yield network


@pytest.fixture
def far(network) -> Iterator[None]:
    """Three tenths of a second away, there and back."""
    network.delay_s = 0.15
    yield
    network.delay_s = 0


@pytest.fixture(scope="module")
def events(redis_server: Redis) -> Iterator[Consumer]:
    with closing(Consumer(redis_server.url())) as consumer:
        yield consumer


@pytest.fixture(scope="module")
def running_site(postgres, network, events, tmp_path_factory) -> Iterator[Site]:
    url = postgres.url().replace(f":{postgres.port}", f":{network.port}")
    folder = tmp_path_factory.mktemp("site")
    env = {
        "EVENTS_URL": events.url,
        "LOCK_WAIT_READ_S": "4",  # to be seen waiting
        "HEARTBEAT_TIMEOUT_S": "3",  # a busy machine has not failed
    }
    site, token, _ = Site.on_postgres(url, folder, **env)
    site.headers = {"Authorization": f"Token {token}"}
    try:
        yield site.start()
    finally:
        print(site.output()[-3_000:])  # shown when a test has failed
        site.stop()


@pytest.fixture
def site(running_site) -> Site:
    """The site, when it has got over the test before."""
    wait_for(lambda: "database" not in degraded(running_site))
    return running_site


@contextmanager
def locked(postgres: Postgres, table: str) -> Iterator[None]:
    with psycopg.connect(postgres.url()) as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def administering(postgres: Postgres) -> Iterator[Callable[[str], object]]:
    """Run statements on a connection that stays writable."""
    options = "-c default_transaction_read_only=off"
    with psycopg.connect(postgres.url(), autocommit=True, options=options) as admin:
        yield admin.execute


@contextmanager
def read_only(postgres: Postgres, new_ones: bool) -> Iterator[None]:
    """Make the present connections read-only, and also new ones or not."""
    value = "on" if new_ones else "off"
    name = "default_transaction_read_only"
    with administering(postgres) as execute:
        execute(f"ALTER ROLE CURRENT_USER SET {name} = {value}")
        execute(f"ALTER SYSTEM SET {name} = on")
        execute("SELECT pg_reload_conf()")
        if new_ones:
            execute(END_OTHERS)
        try:
            yield
        finally:
            execute(f"ALTER SYSTEM RESET {name}")
            execute(f"ALTER ROLE CURRENT_USER RESET {name}")
            execute("SELECT pg_reload_conf()")


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


DONE = "succeeded"


def do_job(site: Site) -> None:
    job = {"task": "heavy_computation", "params": {"size": 1_000}}
    key = {"Idempotency-Key": f'"{uuid4()}"'} | site.headers
    answer = wait_for(
        lambda: (
            (sent := site.request("POST", JOBS, job, key)).status in (200, 202) and sent
        )
    )
    path = JOBS + answer.json()["id"]
    wait_for(lambda: site.get(path, **site.headers).json().get("state") == DONE)


def test_all_processes_work_again_after_a_lost_network(site, network, events):
    for _ in range(2):
        item = write(site)
        wait_for(lambda item=item: any(b["subject"] == item for b in events.bodies))
        do_job(site)
        network.lose()
    item = write(site)
    do_job(site)
    wait_for(lambda: any(body["subject"] == item for body in events.bodies))


LOOKUP = "/api/v1/collections/general/lookup"


def test_codes_are_looked_up_without_a_database(site, network):
    """Those that were before, each by GET or in any batch, marked as stale."""
    one, other = write(site), write(site)
    assert site.get(f"{LOOKUP}?code={one}").status == 200
    asked = {"codes": [other, "none"]}
    assert site.request("POST", LOOKUP, asked).status == 200
    for item in (one, other):  # what is known may not hold any more
        change = {"name": "sent through a network", "tags": ["changed"]}
        site.request("PUT", ITEMS + item, change, site.headers)
    write(site)
    network.refuse()
    try:
        known = site.request("POST", LOOKUP, {"codes": ["none", one, other]})
        assert (known.status, "origin-failed" in known.headers["Cache-Status"]) == (
            200, True,
        )  # fmt: skip
        results = known.json()["results"]
        assert [result["found"] for result in results] == [False, True, True]
        assert site.get(f"{LOOKUP}?code={other}").json() == results[2]
        assert site.get(f"{LOOKUP}?code=none").status == 404
        unknown = site.request("POST", LOOKUP, {"codes": [one, "never asked"]})
        assert (unknown.status, unknown.json()["code"]) == (503, "unavailable")
    finally:
        network.accept()
    write(site)


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
    # None where the database was degraded already; not one for each request.
    assert site.output().count("due to lock timeout") <= 1


ITEM = {"name": "written once"}


def test_connections_that_became_read_only_are_replaced_at_once(site, postgres):
    write(site)
    time.sleep(REPLACED_EVERY_S)  # another test may have had them replaced just now
    with read_only(postgres, new_ones=False):
        for _ in range(8):
            assert site.request("POST", ITEMS, ITEM, site.headers).status == 201
        do_job(site)


def test_read_only_server_degrades_the_database_once(site, postgres):
    item = write(site)
    wait_for(lambda: degraded(site) == "ok\n")
    before = len(site.output())
    with read_only(postgres, new_ones=True):
        wait_for(lambda: "degraded: database" in degraded(site))
        for _ in range(8):
            answer = site.request("POST", ITEMS, ITEM, site.headers)
            assert answer.status == 503
            assert "accepts no changes" in answer.json()["detail"]
        assert site.get(ITEMS + item).status == 200
    write(site)
    lines = [json.loads(line) for line in site.output()[before:].splitlines()]
    events = [line["event"] for line in lines if line.get("component") == "database"]
    assert len([event for event in events if "WARN" in event]) == 1
    names = [line.get("event_name") for line in lines]
    assert names.count("service_degraded") <= 1


def test_read_is_repeated_when_its_connection_ends(site, postgres):
    """As by a failover, in the middle of a query: here while it waits for a lock."""
    with ThreadPoolExecutor(1) as pool, administering(postgres) as execute:
        with locked(postgres, "items_item"):
            beside = pool.submit(site.get, f"{ITEMS}?search={uuid4()}")
            end = f"{END_OTHERS} AND wait_event_type = 'Lock'"
            wait_for(lambda: execute(end).fetchall())
        assert beside.result().status == 200


def test_far_database_is_not_taken_for_dead(site, far):
    write(site)
    before = len(site.output())
    for _ in range(2):
        assert site.request("POST", ITEMS, ITEM, site.headers).status == 201
    assert "breaker_opened" not in site.output()[before:]


HANGING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@contextmanager
def hanging_commits(postgres: Postgres) -> Iterator[Callable[[], int]]:
    """Have them wait for a synchronous standby that is not there; count them."""
    has_hung = threading.Event()

    def commit_until_it_hangs() -> None:
        """The server takes the setting up some time after it has been told to."""
        with psycopg.connect(postgres.url(), autocommit=True) as other:
            while not has_hung.is_set():
                other.execute("SELECT pg_logical_emit_message(true, '', '')")

    with ThreadPoolExecutor(1) as pool, administering(postgres) as execute:
        execute("SET synchronous_commit = local")
        execute("ALTER SYSTEM SET synchronous_standby_names = 'none'")
        execute("SELECT pg_reload_conf()")
        try:
            hung = pool.submit(commit_until_it_hangs)
            wait_for(lambda: execute(HANGING).fetchone()[0])
            has_hung.set()
            yield lambda: execute(HANGING).fetchone()[0] - 1
        finally:
            has_hung.set()
            execute("ALTER SYSTEM RESET synchronous_standby_names")
            execute("SELECT pg_reload_conf()")
        hung.result()


def test_commit_that_hangs_ends_at_the_deadline_of_its_write(site, postgres):
    write(site)
    with hanging_commits(postgres):
        # Time for all that comes before the commit.
        headers = site.headers | {"X-Request-Timeout": "5s"}
        answer = site.request("POST", ITEMS, ITEM, headers)
        assert answer.status == 503
        assert "Check whether it was" in answer.json()["detail"]
    write(site)


def test_commit_that_hangs_shows_and_lets_no_other_begin(site, postgres):
    write(site)
    wait_for(lambda: degraded(site) == "ok\n")
    with ThreadPoolExecutor(1) as pool:
        with hanging_commits(postgres) as count:
            first = pool.submit(site.request, "POST", ITEMS, ITEM, site.headers)
            wait_for(count)
            wait_for(lambda: "degraded: database" in degraded(site))
            other = site.request("POST", ITEMS, ITEM, site.headers)
            assert other.status == 503
            assert not first.done(), first.result().body
            assert "Nothing was changed" in other.json()["detail"]
        assert first.result().status == 201
    wait_for(lambda: degraded(site) == "ok\n")
