"""The site through PgBouncer in transaction mode, with few sessions for all clients."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.events import Consumer
from tests.private_server import wait_for
from tests.running import Site
from tests.servers import PgBouncer, Postgres, Redis
from tests.services_plugin import _make, running

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.timeout(400)]

ITEMS, JOBS = "/api/v1/items/", "/api/v1/jobs/"
# As deploy/README.md has it.
LIMITS = {
    "statement_timeout": "30s",
    "lock_timeout": "1s",
    "client_connection_check_interval": "1s",
}
# With more time for each check than a busy machine takes.
DOCTOR = """
from django.core.management import call_command
from resilient_site.operations import doctor
doctor.TIMEOUT_S = 60
call_command("doctor")
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with contextmanager(running)(Postgres) as server:
        with psycopg.connect(server.url()) as connection:
            for name, value in LIMITS.items():
                connection.execute(f"ALTER ROLE site SET {name} = '{value}'")
        yield server


@pytest.fixture(scope="module")
def pooler(postgres) -> Iterator[PgBouncer]:
    with closing(_make(lambda: PgBouncer(postgres))) as pooler:
        yield pooler.start()


@pytest.fixture(scope="module")
def events(redis_server: Redis) -> Iterator[Consumer]:
    with closing(Consumer(redis_server.url())) as consumer:
        yield consumer


@pytest.fixture(scope="module")
def site(postgres, pooler, events, tmp_path_factory) -> Iterator[Site]:
    env = {"EVENTS_URL": events.url, "DATABASE_DIRECT_URL": postgres.url()}
    env["HEARTBEAT_TIMEOUT_S"] = "3"  # a busy machine has not failed
    folder = tmp_path_factory.mktemp("site")
    site, token, _ = Site.on_postgres(pooler.url(), folder, **env)
    site.headers = {"Authorization": f"Token {token}"}
    try:
        yield site.start()
    finally:
        print(site.output()[-3_000:])  # shown when a test has failed
        site.stop()


def send(site: Site, method: str, path: str, body: Any = None) -> Any:
    """Send a request as a client that repeats what is rejected; return the body."""
    key = {"Idempotency-Key": f'"{uuid4()}"'} | site.headers
    answer = wait_for(
        lambda: (got := site.request(method, path, body, key)).status != 503 and got
    )
    assert answer.status < 300, answer.body
    return json.loads(answer.body or b"null")


def new_item(site: Site, **values: Any) -> str:
    return send(site, "POST", ITEMS, {"name": "pooled"} | values)["id"]


def do_job(site: Site, task: str, **params: Any) -> Any:
    path = JOBS + send(site, "POST", JOBS, {"task": task, "params": params})["id"]

    def finished() -> Any:
        job = site.get(path, **site.headers)
        ended = job.status == 200 and job.json()["state"] not in ("queued", "running")
        return job.json() if ended else None

    job = wait_for(finished)
    assert job["state"] == "succeeded", job
    return job["result"]


def is_published(events: Consumer, item: str) -> bool:
    return item in [event["subject"] for event in events.bodies]


def test_items_are_written_read_and_published(site, events):
    items = [new_item(site) for _ in range(10)]
    for item in items:
        for _ in range(2):
            assert site.get(f"{ITEMS}{item}/history").status in (200, 401)
            assert site.get(ITEMS + item).json()["name"] == "pooled"
    rows = [{"id": item, "name": "changed"} for item in items]
    send(site, "PATCH", f"{ITEMS}-/bulk", rows)
    assert {site.get(ITEMS + item).json()["name"] for item in items} == {"changed"}
    assert site.get("/items/?search=changed").status == 200
    wait_for(lambda: all(is_published(events, item) for item in items))
    followed = site.get("/api/v1/changes?page_size=200").json()["results"]
    assert {change["item_id"] for change in followed} >= {*items}


def test_jobs_run_and_are_taken_at_once(site, postgres):
    # A transaction would see the activity as it was at its start.
    with psycopg.connect(postgres.url(), autocommit=True) as direct:
        listening = (
            """SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"""
        )
        wait_for(lambda: direct.execute(listening).fetchone()[0])
    assert do_job(site, "heavy_computation", size=1_000)["primes"] == 168
    item = new_item(site)
    do_job(site, "change_items", ids=[item], number=1, add_tags=["done"])
    assert site.get(ITEMS + item).json()["tags"] == ["done"]


def test_schema_makes_its_indexes_on_the_database_itself(site, postgres):
    key = f"pooled-{uuid4().hex[:8]}"
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}}
    schema["properties"]["size"]["x-filterable"] = True
    send(site, "POST", "/api/v1/collections", {"key": key, "name": key})
    send(site, "PUT", f"/api/v1/collections/{key}/schema", schema)
    indexes = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'item_attr_%'"
    with psycopg.connect(postgres.url(), autocommit=True) as direct:
        wait_for(lambda: direct.execute(indexes).fetchone()[0])
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        wait_for(lambda: not direct.execute(held).fetchone()[0])


@contextmanager
def locked(postgres: Postgres, item: str) -> Iterator[None]:
    with psycopg.connect(postgres.url()) as other:
        other.execute("SELECT 1 FROM items_item WHERE id = %s FOR UPDATE", [item])
        yield


def test_deadlines_hold_and_are_left_to_no_other_client(site, postgres, pooler):
    item = new_item(site)
    with locked(postgres, item):
        body = {"name": "late"}
        answer = site.request("PATCH", ITEMS + item, body, site.headers)
        assert answer.status == 503
        assert_limits(pooler)
    send(site, "PATCH", ITEMS + item, {"name": "in time"})
    assert_limits(pooler)


def assert_limits(pooler: PgBouncer) -> None:
    """Each session that the pooler gives has the limits of the role."""
    for _ in range(10):
        with psycopg.connect(pooler.url(), autocommit=True) as client:
            found = {
                name: client.execute(f"SHOW {name}").fetchone()[0] for name in LIMITS
            }
            assert found == LIMITS


@pytest.mark.parametrize("fault", ["pooler killed", "database restarted"])
def test_all_processes_work_again_after_an_outage(
    site, events, pooler, postgres, fault
):
    item = new_item(site)
    assert site.get(ITEMS + item).status == 200
    server = pooler if fault.startswith("pooler") else postgres
    server.kill()
    try:
        wait_for(lambda: b"database" in site.get("/readyz").body)
        assert site.get(ITEMS + item).json()["name"] == "pooled"
        answer = site.request("PATCH", ITEMS + item, {"name": "no"}, site.headers)
        assert answer.status == 503
    finally:
        server.start()
    began = time.monotonic()
    after = new_item(site)
    do_job(site, "heavy_computation", size=1_000)
    wait_for(lambda: is_published(events, after))
    print(f"{fault}: healed after {time.monotonic() - began:.1f} s")
    assert site.get(ITEMS + item).json()["name"] == "pooled"


def test_backup_and_doctor_use_the_database_itself(site, tmp_path):
    site.env["PATH"] = f"{Postgres.find().parent}:{site.env['PATH']}"  # as new
    done = site.manage("backup", str(tmp_path / "dump"))
    assert done.returncode == 0, done.stderr
    found = site.manage("shell", "-v0", "-c", DOCTOR)
    assert "The database itself answers, too" in found.stdout
    assert "is 0:" not in found.stdout
