"""Probes, status page and metrics, by the edge and as Django's views under WSGI."""

import asyncio
import json

import pytest
from django.test import RequestFactory

from resilient_site.wsgi import application
from tests.resilient_site.edge import clients
from tests.resilient_site.edge.clients import ask

pytestmark = [pytest.mark.once, pytest.mark.django_db]


def get_by_wsgi(path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    environ = RequestFactory().generic(method, path).environ
    started = []
    content = application(environ, lambda *start: started.append(start))
    body = b"".join(content)
    content.close()
    status, headers = started[0][:2]
    return int(status[:3]), dict(headers), body


def get_by_edge(path: str) -> tuple[int, dict[str, str], bytes]:
    answer = asyncio.run(ask(path))
    headers = {name.title(): value for name, value in answer.headers.items()}
    return answer.status, headers, answer.body


@pytest.fixture(autouse=True)
def no_query_in_an_event_loop(monkeypatch):
    """The tests of pages allow it, for Playwright."""
    monkeypatch.delenv("DJANGO_ALLOW_ASYNC_UNSAFE", raising=False)


PROBES = {
    "/livez": ("text/plain", b"ok\n"),
    "/livez/": ("text/plain", b"ok\n"),
    "/readyz": ("text/plain", b"ok"),
    "/metrics": ("text/plain", b"# HELP"),
    "/status/": ("text/html", b"<!doctype html>"),
    "/status/?format=json": ("application/json", b'{"status":'),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("get", [get_by_wsgi, get_by_edge])
def test_probes_answer(get):
    for path, (type, begin) in PROBES.items():
        status, headers, body = get(path)
        assert (status, body[: len(begin)].lower()) == (200, begin.lower()), path
        assert headers["Content-Type"].startswith(type)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in headers["Content-Security-Policy"]


@pytest.mark.django_db(transaction=True)
def test_verbose_readiness_is_health_json_under_wsgi():
    status, headers, body = get_by_wsgi("/readyz?verbose")
    assert (status, headers["Content-Type"]) == (200, "application/health+json")
    assert json.loads(body)["checks"]["database"][0]["status"] == "pass"


@pytest.mark.parametrize(("path", "status"), [("/livez", 200), ("/status/", 400)])
def test_status_page_alone_is_for_allowed_hosts(monkeypatch, path, status):
    monkeypatch.setattr(clients, "HOST", (b"host", b"any.example"))
    assert asyncio.run(ask(path)).status == status


def test_status_json_of_the_edge_has_no_figures():
    asked = asyncio.run(ask("/status/", headers=[(b"accept", b"application/json")]))
    assert {"database", "cache", "compute"} <= set(asked.json()["checks"])
    assert b"figures" not in asked.body


def test_probes_are_not_redirected_to_https(client, settings):
    settings.SECURE_SSL_REDIRECT = True
    for path in ("/livez", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200
    assert client.get("/status/").status_code == 301


def test_metrics_are_hidden_from_other_addresses(client):
    assert client.get("/metrics", REMOTE_ADDR="10.1.2.3").status_code == 404
    assert client.post("/metrics").status_code == 404
