"""Probes, status page and metrics of a running site while its services hang."""

import re

import pytest

from tests.private_server import wait_for
from tests.running import Site

pytestmark = pytest.mark.once


def readiness(site: Site) -> tuple[int, str]:
    assert site.get("/livez").body == b"ok\n"
    answer = site.get("/readyz")
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status, answer.body.decode().strip()


HANGING = {
    "database": "fail", "cache": "warn", "feed": "warn", "compute": "warn",
    "edge": "pass", "overrides": "pass", "disk": "pass",
}  # fmt: skip


def statuses(site: Site) -> dict[str, str]:
    checks = site.get("/readyz?verbose").json()["checks"].items()
    return {name: check[0]["status"] for name, check in checks}


def page(site: Site, **headers: str) -> str:
    answer = site.get("/status/", **headers)
    assert answer.status == 200
    return answer.body.decode()


def test_probes_page_and_metrics_answer_while_database_and_cache_hang(
    tmp_path, postgres_own, redis_own
):
    site, _, session = Site.on_postgres(
        postgres_own.url(),
        tmp_path / "site",
        REDIS_URL=redis_own.url(),
        HEARTBEAT_TIMEOUT_S="3",
    )
    cookie = f"sessionid={session}"
    site.start_web()
    try:
        wait_for(lambda: readiness(site) == (200, "ok"))
        wait_for(lambda: "Everything works." in page(site))
        assert "Circuit breakers" in page(site, Cookie=cookie)

        postgres_own.pause()
        redis_own.pause()
        # Nothing was read before that could be served now.
        wait_for(lambda: readiness(site)[0] == 503)
        # Each component is checked by itself.
        wait_for(lambda: statuses(site) == HANGING)
        wait_for(lambda: "shared cache does not answer" in page(site))
        shown = page(site)
        assert "The site cannot answer requests" in shown
        assert "The database does not answer" in shown
        assert re.search(r"Since <time .*UTC</time>", shown)
        answer = site.get("/readyz?verbose")
        assert (answer.status, answer.json()["status"]) == (503, "fail")
        assert answer.headers["Content-Type"] == "application/health+json"
        is_open = b'breakers{breaker="database",state="open"} 1.0'
        wait_for(lambda: is_open in site.get("/metrics").body)  # sampled each second
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
        degraded = "ok, but degraded: database, feed, compute"
        wait_for(lambda: readiness(site) == (200, degraded))
        wait_for(lambda: "Some things do not work" in page(site))
    finally:
        site.stop()
        print(site.output())
