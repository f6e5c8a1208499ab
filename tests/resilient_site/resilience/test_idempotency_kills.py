"""The web process is killed when the write is done and the answer is not sent."""

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
from tests.running import Answer, Site
from tests.servers import Postgres

pytestmark = pytest.mark.once

ITEMS = "/api/v1/items/"
ITEM = {"name": "Sent once"}
ADMIN = """
from django.contrib.auth.models import User
User.objects.create_superuser("ada")
"""


class Client:
    """Sends one write, with its key, as often as it has to."""

    def __init__(self, site: Site, user: str) -> None:
        self.site = site
        token = site.manage("create_token", user).stdout.strip()
        self.headers = {
            "Authorization": f"Token {token}",
            "Idempotency-Key": '"sent-once"',
            "Content-Type": "application/json",
        }

    def send(self) -> Answer:
        return self.site.request("POST", ITEMS, ITEM, self.headers)

    def begin(self) -> http.client.HTTPConnection:
        """Send it and read nothing."""
        to = http.client.HTTPConnection(self.site.host, self.site.port, timeout=20)
        to.request("POST", ITEMS, json.dumps(ITEM).encode(), self.headers)
        return to

    def send_again(self) -> Answer:
        """Wait for the next web process, and send it again."""
        wait_for(self.site.answers)
        return self.send()


def kill_web_worker(site: Site) -> None:
    assert site.process is not None
    # Without jobs it is gunicorn that is started, with nothing around it.
    (worker,) = psutil.Process(site.process.pid).children()
    worker.kill()
    wait_for(lambda: has_ended(worker))


def check(answer: Answer, client: Client) -> None:
    assert answer.status == 201
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert client.send().body == answer.body
    found = client.site.get(f"{ITEMS}?search=sent+once").json()["results"]
    assert found == [answer.json()]


def test_on_sqlite(tmp_path):
    site = Site(tmp_path)

    def is_written() -> bool:
        with closing(sqlite3.connect(tmp_path / "site.sqlite3")) as database:
            sql = "SELECT COUNT(*) FROM items_item WHERE name = ?"
            return bool(database.execute(sql, [ITEM["name"]]).fetchone()[0])

    try:
        site.start_web()
        client = Client(site, "admin")
        with closing(client.begin()):
            wait_for(is_written)
            kill_web_worker(site)
        check(client.send_again(), client)
    finally:
        site.stop()


@pytest.fixture
def site(postgres_own, tmp_path) -> Iterator[Site]:
    site = Site(
        tmp_path,
        DATABASE_URL=postgres_own.url(),
        SECRET_KEY="s" * 50,
        HTTPS="0",
        ALLOWED_HOSTS="localhost,127.0.0.1",
    )
    assert site.manage("migrate", "-v0").returncode == 0
    assert site.manage("shell", "-v0", "-c", ADMIN).returncode == 0
    try:
        yield site.start_web()
    finally:
        site.stop()


class Commits:
    """Lets commits wait for a standby server that is not there: done, and not told."""

    RELOAD = "SELECT pg_reload_conf()"

    def __init__(self, postgres: Postgres) -> None:
        self.url = postgres.url()

    def sql(self, *statements: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as database:
            for statement in statements:
                cursor = database.execute(statement)
            return cursor.fetchall()

    def hold(self) -> None:
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", self.RELOAD)
        wait_for(lambda: self.sql("SHOW synchronous_standby_names") == [("nobody",)])

    def one_waits(self) -> bool:
        held = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return bool(self.sql(held))

    def let_go(self) -> None:
        self.sql("ALTER SYSTEM RESET synchronous_standby_names", self.RELOAD)
        wait_for(lambda: not self.one_waits())


@pytest.fixture
def commits(postgres_own) -> Commits:
    return Commits(postgres_own)


def test_on_postgresql(site, commits):
    client = Client(site, "ada")
    commits.hold()
    with closing(client.begin()) as connection:
        wait_for(commits.one_waits)
        kill_web_worker(site)
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()

    under_way = client.send_again()
    assert (under_way.status, under_way.headers["Retry-After"]) == (409, "1")
    commits.let_go()
    check(client.send(), client)


def test_a_database_that_hangs_in_a_commit_is_not_said_to_have_changed_nothing(
    site, commits, postgres_own
):
    client = Client(site, "ada")
    path = f"{ITEMS}?search=sent+once"

    def found() -> int:
        return len(site.get(path).json()["results"])

    def is_at_hand() -> bool:
        """Tell whether it is shown from memory, and not for want of the database."""
        told = site.get(path).headers["Cache-Status"]
        return "; hit" in told and "detail=" not in told

    assert found() == 0
    commits.hold()
    with closing(client.begin()) as connection:
        wait_for(commits.one_waits)
        postgres_own.pause()
        answer = connection.getresponse()
        assert answer.status == 503
        assert "Look whether it was" in json.load(answer)["detail"]
    postgres_own.resume()
    wait_for(lambda: site.get("/readyz").body == b"ok\n")
    # Nobody is told when it becomes visible: what is read until then stays at hand.
    wait_for(is_at_hand)
    assert found() == 0
    commits.let_go()
    assert client.send().status == 201
    assert found() == 1
