"""The web process is killed between the commit and the response."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import psycopg
import pytest

from tests.private_server import has_ended, wait_for
from tests.running import Answer, Site
from tests.servers import Postgres
from tests.services_plugin import running

pytestmark = pytest.mark.once

ITEMS = "/api/v1/items/"


class Client:
    """Client that repeats one write with its key."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.item = site, {"name": name}
        self.headers = {
            "Authorization": f"Token {site.token}",
            "Idempotency-Key": f'"{name}"',
            "Content-Type": "application/json",
        }

    def send(self) -> Answer:
        return self.site.request("POST", ITEMS, self.item, self.headers)

    def begin(self) -> http.client.HTTPConnection:
        """Send the write; do not read the response."""
        to = http.client.HTTPConnection(self.site.host, self.site.port, timeout=90)
        to.request("POST", ITEMS, json.dumps(self.item).encode(), self.headers)
        return to

    def found(self) -> list[Any]:
        return self.site.get(f"{ITEMS}?search={self.item['name']}").json()["results"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    yield from running(Postgres)


@pytest.fixture(scope="module")
def site(postgres, tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    site, site.token, _ = Site.on_postgres(
        postgres.url(), folder, HEARTBEAT_TIMEOUT_S="3"
    )
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


def test_repeated_write_is_replayed_after_a_kill(site, postgres):
    client = Client(site, "sent-and-killed")
    commits = Commits(postgres)
    commits.hold()
    with closing(client.begin()) as connection:
        wait_for(commits.one_waits)
        # Without a pool the process of the site is gunicorn itself.
        (worker,) = psutil.Process(site.process.pid).children()
        worker.kill()
        wait_for(lambda: has_ended(worker))
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()

    wait_for(site.answers)  # by the next web process
    first = client.send()
    assert (first.status, first.headers["Retry-After"]) == (409, "1")
    assert first.json()["code"] == "idempotency_key_in_use"
    commits.release()
    answer = client.send()
    assert answer.status == 201
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert client.found() == [answer.json()]


def test_response_says_that_the_outcome_of_a_hung_commit_is_unknown(site, postgres):
    client = Client(site, "sent-and-hung")
    commits = Commits(postgres)
    commits.hold()
    with closing(client.begin()) as connection:
        wait_for(commits.one_waits)
        postgres.pause()
        answer = connection.getresponse()
        assert answer.status == 503
        assert "Check whether it was" in json.load(answer)["detail"]
    postgres.resume()
    commits.release()
    # As a client does: it may be rejected until the database is known to be back.
    wait_for(lambda: client.send().status == 201)
    assert len(client.found()) == 1
