"""The web process is killed between the commit and the response."""

import http.client
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import psycopg
import pytest

from tests.private_server import has_ended, wait_for
from tests.running import Answer, Site, admin_token
from tests.servers import Postgres
from tests.services_plugin import running

pytestmark = pytest.mark.once

ITEMS = "/api/v1/items/"


class Client:
    """Client that repeats one write with its key."""

    def __init__(self, site: Site, token: str, name: str) -> None:
        self.site, self.item = site, {"name": name}
        self.headers = {
            "Authorization": f"Token {token}",
            "Idempotency-Key": f'"{name}"',
            "Content-Type": "application/json",
        }

    def send(self) -> Answer:
        return self.site.request("POST", ITEMS, self.item, self.headers)

    def begin(self) -> http.client.HTTPConnection:
        """Send the write; do not read the response."""
        to = http.client.HTTPConnection(self.site.host, self.site.port, timeout=20)
        to.request("POST", ITEMS, json.dumps(self.item).encode(), self.headers)
        return to

    @property
    def search(self) -> str:
        return f"{ITEMS}?search={self.item['name']}"

    def found(self) -> list[Any]:
        return self.site.get(self.search).json()["results"]

    def send_again(self) -> Answer:
        """Wait for the next web process, and repeat the write."""
        wait_for(self.site.answers)
        return self.send()


def kill_web_worker(site: Site) -> None:
    assert site.process is not None
    # Without a pool the process is gunicorn itself.
    (worker,) = psutil.Process(site.process.pid).children()
    worker.kill()
    wait_for(lambda: has_ended(worker))


def check(answer: Answer, client: Client) -> None:
    assert answer.status == 201
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert client.send().body == answer.body
    assert client.found() == [answer.json()]


def test_repeated_write_is_replayed_after_a_kill_on_sqlite(tmp_path):
    site = Site(tmp_path)

    def is_written() -> bool:
        with closing(sqlite3.connect(tmp_path / "site.sqlite3")) as database:
            sql = "SELECT COUNT(*) FROM items_item WHERE name = ?"
            return bool(database.execute(sql, ["sent-once"]).fetchone()[0])

    try:
        site.start_web()
        client = Client(site, admin_token(), "sent-once")
        with closing(client.begin()):
            wait_for(is_written)
            kill_web_worker(site)
        check(client.send_again(), client)
    finally:
        site.stop()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    yield from running(Postgres)


@pytest.fixture(scope="module")
def site(postgres, tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    site, site.token, _ = Site.on_postgres(postgres.url(), folder)
    try:
        yield site.start_web()
    finally:
        site.stop()


class Commits:
    """Makes commits wait for a standby server that does not exist."""

    RELOAD = "SELECT pg_reload_conf()"

    def __init__(self, postgres: Postgres) -> None:
        self.url = postgres.url()

    def sql(self, *statements: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as database:
            for statement in statements:
                cursor = database.execute(statement)
            return cursor.fetchall()

    def hold(self) -> None:
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'missing'", self.RELOAD)
        wait_for(lambda: self.sql("SHOW synchronous_standby_names") == [("missing",)])

    def one_waits(self) -> bool:
        held = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return bool(self.sql(held))

    def release(self) -> None:
        self.sql("ALTER SYSTEM RESET synchronous_standby_names", self.RELOAD)
        wait_for(lambda: not self.one_waits())


@pytest.fixture
def commits(postgres) -> Commits:
    return Commits(postgres)


def test_repeated_write_is_replayed_after_a_kill_on_postgresql(site, commits):
    client = Client(site, site.token, "sent-and-killed")
    commits.hold()
    with closing(client.begin()) as connection:
        wait_for(commits.one_waits)
        kill_web_worker(site)
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()

    first = client.send_again()
    assert (first.status, first.headers["Retry-After"]) == (409, "1")
    commits.release()
    check(client.send(), client)


def test_response_says_that_the_outcome_of_a_hung_commit_is_unknown(
    site, commits, postgres
):
    client = Client(site, site.token, "sent-and-hung")

    def is_cache_hit() -> bool:
        """Return whether it comes from the cache, and is not stale."""
        status = site.get(client.search).headers["Cache-Status"]
        return "; hit" in status and "detail=" not in status

    assert client.found() == []
    commits.hold()
    with closing(client.begin()) as connection:
        wait_for(commits.one_waits)
        postgres.pause()
        answer = connection.getresponse()
        assert answer.status == 503
        assert "Check whether it was" in json.load(answer)["detail"]
    postgres.resume()
    wait_for(lambda: site.get("/readyz").body == b"ok\n")
    # The commit becomes visible without an invalidation; until then it stays cached.
    wait_for(is_cache_hit)
    assert client.found() == []
    commits.release()
    assert client.send().status == 201
    assert len(client.found()) == 1
