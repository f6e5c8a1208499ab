"""Every error has a response: a problem document for REST, a page for a browser."""

import errno
import json
import math

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError, connection
from django.http import Http404
from rest_framework import exceptions as drf_errors

from items import catalogue, list_query
from items.models import Item
from resilient_site import errors
from resilient_site.errors import SiteError, as_site_error
from resilient_site.health import checks
from resilient_site.health.components import Status
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import DEGRADED_S, Breaker

pytestmark = pytest.mark.once


def all_errors(kind: type[SiteError] = SiteError) -> list[type[SiteError]]:
    return [kind, *(e for sub in kind.__subclasses__() for e in all_errors(sub))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_code_and_a_detail(kind):
    error = kind()
    assert 400 <= error.status < 600
    assert error.code.replace("_", "").isalpha()
    assert error.detail
    assert error.title
    if error.status == 503:
        assert error.retry_after_s


@pytest.mark.parametrize(
    ("exception", "status", "code"),
    [
        (OperationalError("gone"), 503, "unavailable"),
        (InterfaceError("closed"), 503, "unavailable"),
        (OSError(errno.ENOSPC, "No space left on device"), 503, "unavailable"),
        (OSError(errno.EIO, "secret"), 500, "server_error"),
        (Http404(), 404, "not_found"),
        (PermissionDenied(), 403, "permission_denied"),
        (RequestDataTooBig(), 413, "too_large"),
        (drf_errors.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (drf_errors.ParseError(), 400, "parse_error"),
        (ValueError("secret"), 500, "server_error"),
    ],
    ids=repr,
)
def test_exceptions_of_libraries_are_mapped(exception, status, code):
    error = as_site_error(exception)
    assert (error.status, error.code) == (status, code)
    assert "secret" not in error.detail


def test_full_disk_is_one_event_and_shown(monkeypatch, caplog, clock, settings):
    monkeypatch.setattr(breakers, "disk", Breaker("disk", clock=clock))
    assert checks.disk().status is Status.PASS
    for _ in range(76):
        error = as_site_error(OSError(errno.ENOSPC, "No space left on device"))
        clock.now += 0.1
    assert error.detail.startswith("The disk of the site is full.")
    assert [record.event_name for record in caplog.records] == ["service_degraded"]
    found = checks.disk()
    assert (found.status, "No space left" in found.error) == (Status.WARN, True)
    clock.now += DEGRADED_S
    assert checks.disk().status is Status.PASS


def test_errors_of_a_list_keep_their_index():
    error = as_site_error(drf_errors.ValidationError([{}, {"name": ["x"]}]))
    assert error.errors == {"1": {"name": ["x"]}}
    error = as_site_error(drf_errors.ValidationError("x"))
    assert error.errors == {"non_field_errors": ["x"]}


@pytest.mark.django_db
@pytest.mark.parametrize("exception", [OperationalError("x"), InterfaceError("x")])
def test_unavailable_database_is_503_for_rest_and_pages(client, monkeypatch, exception):
    def fail(*args, **kwargs):
        raise exception

    monkeypatch.setattr(catalogue, "get_item", fail)
    monkeypatch.setattr(list_query, "paginate", fail)

    rest = client.get("/api/v1/items/a")
    assert (rest.status_code, rest["Retry-After"]) == (503, "5")
    assert json.loads(rest.content)["code"] == "unavailable"
    page = client.get("/items/")
    assert (page.status_code, page["Retry-After"]) == (503, "5")
    assert b"database" in page.content


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL")
@pytest.mark.parametrize(("is_new", "status"), [(True, 503), (False, 201)])
def test_read_only_connection_is_replaced_or_503(api, monkeypatch, is_new, status):
    every = "resilient_site.postgres.heartbeat.REPLACED_EVERY_S"
    monkeypatch.setattr(every, math.inf if is_new else 0)
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        written = api.post("/api/v1/items/", {"name": "X"})
        assert api.get("/api/v1/items/").status_code == 200
    finally:
        connection.close()
    assert written.status_code == status
    if is_new:
        assert written["Retry-After"] == "5"
        assert "accepts no changes" in written.json()["detail"]
    assert Item.objects.count() == (not is_new)


def test_null_character_in_an_address_is_404(client):
    for path in ("/api/v1/items/%ff%00", "/items/%00/"):
        assert client.get(path).status_code == 404


@pytest.mark.django_db
def test_unexpected_error_is_a_page_with_the_request_id(client, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("secret")

    monkeypatch.setattr(list_query, "paginate", fail)
    client.raise_request_exception = False
    response = client.get("/items/")
    assert response.status_code == 500
    assert b"<h1" in response.content
    assert b"secret" not in response.content
    assert response["X-Request-ID"] in response.content.decode()


def test_error_page_needs_no_database(rf):
    response = errors.respond(rf.get("/items/"), errors.Unavailable())
    assert response.status_code == 503
    assert b"<html" in response.content
