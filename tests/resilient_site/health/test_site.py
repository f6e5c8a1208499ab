"""Probes and status page of a running site, also while its services hang."""

import json
import re
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from statistics import median

import psutil
import pytest

from tests.private_server import BUSY_S, wait_for
from tests.running import Answer, Site

pytestmark = pytest.mark.once

SECRET_KEY = "health-" * 10
# The median: a single response may be delayed by other work of the machine.
AT_ONCE_S = 0.25
SET_UP = """
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
client = Client()
client.force_login(User.objects.create_superuser("ada"))
print(client.cookies[settings.SESSION_COOKIE_NAME].value)
"""


def set_up(site: Site) -> str:
    """Create the database, and return the cookie of an administrator."""
    done = site.manage("shell", "-v", "0", "-c", SET_UP)
    assert done.returncode == 0, done.stderr
    return f"sessionid={done.stdout.strip()}"


class TimedClient:
    """Client that records how long each response took."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.took_s: dict[str, list[float]] = defaultdict(list)

    def get(self, path: str, **headers: str) -> Answer:
        began = time.monotonic()
        answer = self.site.get(path, **headers)
        self.took_s[path].append(time.monotonic() - began)
        return answer

    def assert_at_once(self, *paths: str) -> None:
        """Assert that half of the responses at each path came at once."""
        for path in paths:
            for _ in range(4):
                self.get(path)
            took_s = self.took_s[path]
            print(f"{path}: {len(took_s)} answers, slowest {max(took_s):.3f} s")
            assert median(took_s) < AT_ONCE_S

    def ready(self) -> tuple[int, str]:
        assert self.get("/livez").body == b"ok\n"
        answer = self.get("/readyz")
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.status, answer.body.decode().strip()

    def page(self, **headers: str) -> str:
        answer = self.get("/status/", **headers)
        assert answer.status == 200
        return answer.body.decode()


def test_probes_and_page_answer_while_database_and_cache_hang(
    tmp_path, postgres_own, redis_own
):
    site = Site(
        tmp_path / "site", DATABASE_URL=postgres_own.url(), REDIS_URL=redis_own.url(),
        SECRET_KEY=SECRET_KEY, HTTPS="0", ALLOWED_HOSTS="127.0.0.1",
    )  # fmt: skip
    (tmp_path / "site").mkdir()
    cookie = set_up(site)
    site.start_web()
    try:
        outage(TimedClient(site), cookie, postgres_own, redis_own)
    finally:
        site.stop()
        print(site.output())


def outage(client, cookie, postgres, redis):
    wait_for(lambda: client.ready() == (200, "ok"))
    assert "Everything works." in client.page()
    assert "Circuit breakers" in client.page(Cookie=cookie)

    client.took_s.clear()
    postgres.pause()
    redis.pause()
    began = time.monotonic()
    # Nothing was read before that could be served now.
    wait_for(lambda: client.ready()[0] == 503)
    noticed_s = time.monotonic() - began
    wait_for(lambda: "shared cache does not answer" in client.page())
    page = client.page()
    assert "The site cannot answer requests" in page
    assert "The database does not answer" in page
    assert re.search(r"Since <time .*UTC</time>", page)
    answer = client.get("/readyz?verbose")
    assert (answer.status, answer.json()["status"]) == (503, "fail")
    assert answer.headers["Content-Type"] == "application/health+json"
    checks = answer.json()["checks"].items()
    assert {name: check[0]["status"] for name, check in checks} == {
        "database": "fail", "cache": "warn", "compute": "warn", "edge": "pass",
    }  # fmt: skip
    assert postgres.password not in answer.body.decode() + page
    print(f"noticed after {noticed_s:.2f} s")
    assert noticed_s < 3 + BUSY_S
    client.assert_at_once("/livez", "/readyz", "/status/")
    own_page = client.page(Cookie=cookie)
    assert "The database does not answer" in own_page
    assert "Circuit breakers" not in own_page
    assert client.took_s["/status/"][-1] < 1 + BUSY_S

    postgres.resume()
    redis.resume()
    wait_for(lambda: client.ready() == (200, "ok"))
    assert client.site.get("/api/v1/items").status == 200
    wait_for(lambda: json.loads(client.get("/readyz?verbose").body)["status"] == "pass")
    postgres.kill()
    wait_for(lambda: client.ready() == (200, "ok, but degraded: database, compute"))
    assert "Some things do not work" in client.page()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    site = Site(
        tmp_path_factory.mktemp("site"), WEB_THREADS="2", WEB_PROCESSES="2",
        RATE_LIMITS="anonymous-read=1/d",
    )  # fmt: skip
    site.cookie = set_up(site)
    site.start_web()
    yield site
    site.stop()
    print(site.output())


def test_probes_are_plain_text_and_never_limited(site):
    for _ in range(5):
        for path in ("/livez", "/livez/", "/readyz"):
            answer = site.get(path, Host="any.example")
            assert (answer.status, answer.body[:2]) == (200, b"ok")
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert answer.headers["Cache-Control"] == "no-store"
            assert site.request("HEAD", path).body == b""
            rejected = site.request("POST", path)
            assert (rejected.status, rejected.headers["Allow"]) == (405, "GET, HEAD")
        assert site.get("/status/").status == 200


def test_status_page_has_security_headers_and_json(site):
    answer = site.get("/status/")
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert site.get("/status/", Host="any.example").status == 400
    assert site.request("HEAD", "/status/").body == b""
    for asked in (
        site.get("/status/?format=json"),
        site.get("/status/", Accept="application/json"),
    ):
        assert asked.headers["Content-Type"] == "application/json"
        assert set(asked.json()["checks"]) == {"database", "cache", "compute", "edge"}
        assert b"figures" not in asked.body


def test_override_reaches_all_processes_and_outlives_them(site):
    cookie = site.cookie
    # After an overload it is the public page, for a moment.
    wait_for(lambda: b"csrfm" in site.get("/status/", Cookie=cookie).body)
    page = site.get("/status/", Cookie=cookie)
    secret = re.search(rb'name="csrfmiddlewaretoken" value="([^"]+)"', page.body)[1]
    cookie += "; " + page.headers["Set-Cookie"].split(";")[0]
    form = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    path = "/status/breakers/cache/"
    assert site.request("POST", path, b"state=open", form).status == 403
    body = b"state=open&csrfmiddlewaretoken=" + secret
    assert site.request("POST", path, body, form).status == 302
    logged = "Circuit breaker for the cache: forced open."
    wait_for(lambda: site.output().count(logged) == 2)
    assert "Circuit breaker cache: forced open by ada." in site.output()
    assert b"Forced open by ada" in site.get("/status/", Cookie=cookie).body

    for worker in psutil.Process(site.process.pid).children():
        worker.kill()
    wait_for(lambda: site.output().count(logged) == 4)
    (site.output_path.parent / "breakers.json").unlink()
    wait_for(
        lambda: (
            site.output().count("Circuit breaker for the cache: override removed.") == 2
        )
    )


def test_probes_answer_while_every_thread_waits(site):
    client = TimedClient(site)
    database = site.output_path.parent / "site.sqlite3"
    form = b"username=a&password=b&csrfmiddlewaretoken=" + b"c" * 32
    attempt = (
        b"POST /account/sign-in/ HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken="
        + b"c" * 32 + b"\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n" % len(form) + form
    )  # fmt: skip
    peers = [socket.create_connection((site.host, site.port), 20) for _ in range(60)]
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for peer in peers:
            peer.sendall(attempt)
        wait_for(lambda: "edge" in client.ready()[1])
        wait_for(
            lambda: "There are more requests than the site can process" in client.page()
        )
        client.assert_at_once("/livez", "/readyz", "/status/")
        connection.execute("ROLLBACK")
    for peer in peers:
        peer.close()
