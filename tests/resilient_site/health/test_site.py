"""Probes, status page and metrics of a running site, also while its services hang."""

import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing

import psutil
import pytest

from tests.private_server import wait_for
from tests.running import Site

pytestmark = pytest.mark.once

SIGN_IN = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.get(username="admin"))
print(client.cookies["sessionid"].value)
"""


def readiness(site: Site) -> tuple[int, str]:
    assert site.get("/livez").body == b"ok\n"
    answer = site.get("/readyz")
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status, answer.body.decode().strip()


def page(site: Site, **headers: str) -> str:
    answer = site.get("/status/", **headers)
    assert answer.status == 200
    return answer.body.decode()


def test_probes_page_and_metrics_answer_while_database_and_cache_hang(
    tmp_path, postgres_own, redis_own
):
    site, _, session = Site.on_postgres(
        postgres_own.url(), tmp_path / "site", REDIS_URL=redis_own.url()
    )
    cookie = f"sessionid={session}"
    site.start_web()
    try:
        wait_for(lambda: readiness(site) == (200, "ok"))
        assert "Everything works." in page(site)
        assert "Circuit breakers" in page(site, Cookie=cookie)

        postgres_own.pause()
        redis_own.pause()
        # Nothing was read before that could be served now.
        wait_for(lambda: readiness(site)[0] == 503)
        wait_for(lambda: "shared cache does not answer" in page(site))
        shown = page(site)
        assert "The site cannot answer requests" in shown
        assert "The database does not answer" in shown
        assert re.search(r"Since <time .*UTC</time>", shown)
        answer = site.get("/readyz?verbose")
        assert (answer.status, answer.json()["status"]) == (503, "fail")
        assert answer.headers["Content-Type"] == "application/health+json"
        checks = answer.json()["checks"].items()
        assert {name: check[0]["status"] for name, check in checks} == {
            "database": "fail", "cache": "warn", "compute": "warn", "edge": "pass",
        }  # fmt: skip
        metrics = site.get("/metrics").body
        assert b'breakers{breaker="database",state="open"} 1.0' in metrics
        assert postgres_own.password not in answer.body.decode() + shown
        own_page = page(site, Cookie=cookie)
        assert "The database does not answer" in own_page
        assert "Circuit breakers" not in own_page

        postgres_own.resume()
        redis_own.resume()
        wait_for(lambda: readiness(site) == (200, "ok"))
        assert site.get("/api/v1/items").status == 200
        wait_for(lambda: site.get("/readyz?verbose").json()["status"] == "pass")
        postgres_own.kill()
        degraded = "ok, but degraded: database, compute"
        wait_for(lambda: readiness(site) == (200, degraded))
        assert "Some things do not work" in page(site)
    finally:
        site.stop()
        print(site.output())


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    site = Site(
        tmp_path_factory.mktemp("site"), WEB_THREADS="2", WEB_PROCESSES="2",
        RATE_LIMITS="anonymous-read=1/d",
    )  # fmt: skip
    site.start_web()
    yield site
    site.stop()
    print(site.output())


def test_probes_are_plain_text_and_never_limited(site):
    for _ in range(3):
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
    session = site.manage("shell", "-v0", "-c", SIGN_IN).stdout.strip()
    cookie = f"sessionid={session}"
    # After an overload it is the public page, for a moment.
    wait_for(lambda: b"csrfm" in site.get("/status/", Cookie=cookie).body)
    shown = site.get("/status/", Cookie=cookie)
    secret = re.search(rb'name="csrfmiddlewaretoken" value="([^"]+)"', shown.body)[1]
    cookie += "; " + shown.headers["Set-Cookie"].split(";")[0]
    form = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    path = "/status/breakers/cache/"
    assert site.request("POST", path, b"state=open", form).status == 403
    body = b"state=open&csrfmiddlewaretoken=" + secret
    assert site.request("POST", path, body, form).status == 302
    forced = "Circuit breaker for the cache: forced open."
    wait_for(lambda: site.output().count(forced) == 2)
    assert "Circuit breaker cache: forced open by admin." in site.output()
    assert b"Forced open by admin" in site.get("/status/", Cookie=cookie).body

    for worker in psutil.Process(site.process.pid).children():
        worker.kill()
    wait_for(lambda: site.output().count(forced) == 4)
    (site.output_path.parent / "breakers.json").unlink()
    removed = "Circuit breaker for the cache: override removed."
    wait_for(lambda: site.output().count(removed) == 2)


def test_probes_answer_while_every_thread_waits(site):
    form = b"username=a&password=b&csrfmiddlewaretoken=" + b"c" * 32
    attempt = (
        b"POST /account/sign-in/ HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken="
        + b"c" * 32 + b"\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n" % len(form) + form
    )  # fmt: skip
    database = site.output_path.parent / "site.sqlite3"
    with ExitStack() as stack:
        connection = stack.enter_context(
            closing(sqlite3.connect(database, isolation_level=None))
        )
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(60):
            peer = socket.create_connection((site.host, site.port), 20)
            stack.enter_context(peer).sendall(attempt)
        wait_for(lambda: "edge" in readiness(site)[1])
        overloaded = "There are more requests than the site can process"
        wait_for(lambda: overloaded in page(site))
        connection.execute("ROLLBACK")
