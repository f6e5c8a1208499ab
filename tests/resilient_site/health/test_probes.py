"""Probes and metrics as Django's views: under WSGI, `runserver` and the test client."""

import json

import pytest
from django.test import RequestFactory

from resilient_site.health.monitor import health_monitor
from resilient_site.wsgi import application

pytestmark = [pytest.mark.once, pytest.mark.django_db(transaction=True)]


def get_by_wsgi(path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    environ = RequestFactory().generic(method, path).environ
    started = []
    content = application(environ, lambda *start: started.append(start))
    body = b"".join(content)
    content.close()
    status, headers = started[0][:2]
    return int(status[:3]), dict(headers), body


@pytest.mark.parametrize(
    ("path", "begin"),
    [
        ("/livez", b"ok\n"), ("/livez/", b"ok\n"), ("/readyz", b"ok"),
        ("/metrics", b"# HELP"), ("/status/", b"<!doctype html>"),
    ],
)  # fmt: skip
def test_probes_answer_under_wsgi(path, begin):
    status, headers, body = get_by_wsgi(path)
    assert (status, body[: len(begin)].lower()) == (200, begin.lower())
    assert headers["Cache-Control"] == "no-store"


def test_verbose_readiness_is_health_json_under_wsgi():
    status, headers, body = get_by_wsgi("/readyz?verbose")
    assert (status, headers["Content-Type"]) == (200, "application/health+json")
    assert json.loads(body)["checks"]["database"][0]["status"] == "pass"


def test_readiness_fails_while_the_process_stops(client, monkeypatch):
    monkeypatch.setattr(health_monitor, "is_stopping", lambda: True)
    response = client.get("/readyz")
    assert (response.status_code, response.content) == (
        503, b"The process is stopping.\n",
    )  # fmt: skip
    assert client.get("/livez").status_code == 200


def test_probes_allow_only_safe_methods(client):
    for path in ("/livez", "/readyz"):
        response = client.post(path)
        assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")


def test_probes_are_not_redirected_to_https(client, settings):
    settings.SECURE_SSL_REDIRECT = True
    for path in ("/livez", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200
    assert client.get("/status/").status_code == 301


def test_metrics_are_hidden_from_other_addresses(client):
    assert client.get("/metrics", REMOTE_ADDR="10.1.2.3").status_code == 404
    assert client.post("/metrics").status_code == 404
