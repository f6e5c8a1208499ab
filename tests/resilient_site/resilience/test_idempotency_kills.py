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
        site.start("--no-compute")
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
        yield site.start("--no-compute")
    finally:
        site.stop()


def test_on_postgresql(site, postgres_own):
    """A commit waits for a standby server that is not there: it is done, not told."""

    def sql(*statements: str) -> list[Any]:
        with psycopg.connect(postgres_own.url(), autocommit=True) as database:
            for statement in statements:
                cursor = database.execute(statement)
            return cursor.fetchall()

    reload = "SELECT pg_reload_conf()"
    committing = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    client = Client(site, "ada")
    sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", reload)
    wait_for(lambda: sql("SHOW synchronous_standby_names") == [("nobody",)])
    with closing(client.begin()) as connection:
        wait_for(lambda: sql(committing))
        kill_web_worker(site)
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()

    under_way = client.send_again()
    assert (under_way.status, under_way.headers["Retry-After"]) == (409, "1")
    sql("ALTER SYSTEM RESET synchronous_standby_names", reload)
    wait_for(lambda: not sql(committing))
    check(client.send(), client)
