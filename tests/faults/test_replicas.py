"""Reads go to a replica of the database while it is fit for them, and writes never."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from redis import Redis as RedisClient

from resilient_site.edge.cache.invalidation import CHANNEL
from tests.private_server import wait_for
from tests.running import Answer, Site
from tests.servers import Postgres, Redis, Standby
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.timeout(400)]

ITEMS = "/api/v1/items/"
LOOKUP = "/api/v1/collections/general/lookup"
# A replica that is so far behind may be used, as far as that goes. It catches up long
# after a busy machine has done what is asked of it.
MAX_LAG_S, BEHIND_S = 600, 300


@pytest.fixture(scope="module")
def primary() -> Iterator[Postgres]:
    yield from running(Postgres)


@pytest.fixture(scope="module")
def replica(prepared, primary) -> Iterator[Standby]:
    server = Standby(primary)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def prepared(primary, redis_server: Redis, tmp_path_factory) -> Site:
    """The site with its tables, and not running yet."""
    folder = tmp_path_factory.mktemp("site")
    site, token, session = Site.on_postgres(
        primary.url(),
        folder,
        REDIS_URL=redis_server.url(9),
        # What a busy machine lets wait has not failed, and is not rejected.
        HEARTBEAT_TIMEOUT_S="3",
        ADMISSION="0",
    )
    site.headers = {"Authorization": f"Token {token}"}
    site.cookie = {"Cookie": f"sessionid={session}"}
    return site


@pytest.fixture(scope="module")
def running_site(prepared, replica) -> Iterator[Site]:
    prepared.env |= {
        "DATABASE_REPLICA_URLS": replica.url(),
        "DATABASE_REPLICA_MAX_LAG_S": str(MAX_LAG_S),
    }
    try:
        yield prepared.start_web()
    finally:
        print(prepared.output()[-3_000:])  # shown when a test has failed
        prepared.stop()


@pytest.fixture
def site(running_site, replica) -> Site:
    """The site, whose replica is in use."""
    wait_for(running_site.hears_others)
    # Not reported from the test before any more.
    wait_for(lambda: "database" not in degraded(running_site))
    wait_for(lambda: goes_to_replica(running_site, replica))
    return running_site


def goes_to_replica(site: Site, replica: Standby) -> bool:
    code = str(uuid4())
    assert site.get(ITEMS + code).status == 404
    return replica.has_read(code)


def degraded(site: Site) -> str:
    return site.get("/readyz").body.decode()


def create(site: Site) -> str:
    answer = site.request("POST", ITEMS, {"name": "of the primary"}, site.headers)
    assert answer.status == 201
    return answer.json()["id"]


def rename(site: Site, item: str, name: str) -> Answer:
    return site.request("PUT", ITEMS + item, {"name": name}, site.headers)


def is_marked(answer: Answer) -> bool:
    return "origin-failed" in answer.headers["Cache-Status"]


@pytest.mark.parametrize(
    "path",
    [
        ITEMS + "{}", ITEMS + "{}/history", ITEMS + "?search={}", LOOKUP + "?code={}",
        ITEMS + "-/facets?search={}", "/items/{}/", "/items/?search={}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("client", ["nobody", "token", "session"])
def test_read_goes_to_replica(site, replica, path, client):
    headers = {"token": site.headers, "session": site.cookie}.get(client, {})
    code = str(uuid4())
    assert site.get(path.format(code), **headers).status in (200, 404)
    assert replica.has_read(code)


def test_batch_goes_to_replica(site, replica):
    code = str(uuid4())
    assert site.request("POST", LOOKUP, {"codes": [code, "x"]}).status == 200
    assert replica.has_read(code)


def test_accounts_and_writes_stay_with_primary(site, replica):
    create(site)
    assert site.get("/items/", **site.cookie).status == 200
    for table in ("auth_user", "django_session", "apitoken", "INSERT INTO"):
        assert not replica.has_read(table)


def test_browser_that_has_written_reads_from_primary(site, replica):
    answer = rename(site, create(site), "written")
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    wait_for(lambda: goes_to_replica(site, replica))
    code = str(uuid4())
    site.get(ITEMS + code, **site.headers, Cookie=cookie)
    assert not replica.has_read(code)


@contextmanager
def behind(replica: Standby) -> Iterator[None]:
    """Have it replay later what is committed from now on."""
    replica.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{BEHIND_S}s'")
    replica.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        replica.execute("ALTER SYSTEM RESET recovery_min_apply_delay")
        replica.execute("SELECT pg_reload_conf()")


def test_change_is_seen_by_the_next_request_of_anyone(site, replica):
    item = create(site)
    wait_for(lambda: goes_to_replica(site, replica))
    with behind(replica):
        for n in range(3):
            name = f"name {n}"
            assert rename(site, item, name).status == 200
            for headers in ({}, site.headers):
                assert site.get(ITEMS + item, **headers).json()["name"] == name
            assert name in site.get(f"/items/{item}/", **site.cookie).body.decode()
    wait_for(lambda: goes_to_replica(site, replica))
    assert site.get(ITEMS + item, **site.headers).json()["name"] == name


def test_old_row_is_not_cached_after_the_invalidation_of_another_machine(
    site, replica, primary, redis_server
):
    item = create(site)
    wait_for(lambda: goes_to_replica(site, replica))

    def name() -> str:
        return site.get(ITEMS + item).json()["name"]

    with behind(replica):
        with psycopg.connect(primary.url(), autocommit=True) as other:
            other.execute("UPDATE items_item SET name = 'new' WHERE id = %s", [item])
        assert name() == "of the primary"  # and it is cached
        with RedisClient.from_url(redis_server.url(9)) as publisher:
            publisher.publish(CHANNEL, json.dumps([f"item:{item}", "items"]))
        wait_for(lambda: name() == "new")
        assert {name() for _ in range(50)} == {"new"}


def test_replica_whose_replay_is_paused_is_not_used(site, replica):
    item = create(site)
    wait_for(lambda: goes_to_replica(site, replica))
    replica.execute("SELECT pg_wal_replay_pause()")
    try:
        wait_for(lambda: "degraded: replicas" in degraded(site))
        assert rename(site, item, "new").status == 200
        assert {site.get(ITEMS + item).json()["name"] for _ in range(5)} == {"new"}
        assert not goes_to_replica(site, replica)
    finally:
        replica.execute("SELECT pg_wal_replay_resume()")
    wait_for(lambda: degraded(site) == "ok\n")


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_reads_go_to_primary_when_replica_fails(site, replica, fault):
    getattr(replica, fault)()
    try:
        paths = [path + str(uuid4()) for path in (ITEMS, "/items/?search=") * 4]
        with ThreadPoolExecutor(len(paths)) as pool:
            found = [answer.status for answer in pool.map(site.get, paths)]
        assert found == [404, 200] * 4
        wait_for(lambda: "degraded: replicas" in degraded(site))
        create(site)
    finally:
        replica.resume() if replica.running() else replica.start()
    wait_for(lambda: goes_to_replica(site, replica))


def test_promoted_replica_is_not_used(site, replica):
    item = create(site)
    replica.execute("SELECT pg_promote()")
    try:
        wait_for(lambda: "degraded: replicas" in degraded(site))
        assert rename(site, item, "new").status == 200
        assert {site.get(ITEMS + item).json()["name"] for _ in range(5)} == {"new"}
        assert not goes_to_replica(site, replica)
    finally:
        replica.rebuild()
    wait_for(lambda: goes_to_replica(site, replica))


def test_replica_is_read_while_primary_is_down(site, replica, primary):
    known, unknown, page = create(site), create(site), create(site)
    assert site.get(ITEMS + known).status == 200
    wait_for(lambda: goes_to_replica(site, replica))
    primary.kill()
    try:
        wait_for(lambda: "database" in degraded(site))
        answer = site.get(ITEMS + unknown)
        assert (answer.status, answer.json()["id"]) == (200, unknown)
        assert is_marked(answer)
        assert is_marked(site.get(ITEMS + unknown))
        found = site.get(f"{ITEMS}?search={unknown}")
        assert (found.status, is_marked(found)) == (200, True)
        looked_up = site.request("POST", LOOKUP, {"codes": [unknown, known]})
        assert [one["found"] for one in looked_up.json()["results"]] == [True, True]
        assert is_marked(looked_up)
        assert "This is how it was" in site.get(f"/items/{page}/").body.decode()
        assert site.get(ITEMS + str(uuid4())).status == 404
        assert rename(site, known, "new").status == 503
        assert site.get("/readyz").status == 200
    finally:
        primary.start()
    wait_for(lambda: rename(site, unknown, "new").status == 200)
    answer = wait_for(lambda: not is_marked(a := site.get(ITEMS + unknown)) and a)
    assert answer.json()["name"] == "new"
