"""Every error has a response: a problem document for REST, a page for a browser."""

import errno
import json
import math

import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError, connection
from django.http import Http404
from django.test import Client
from rest_framework import exceptions as drf_errors

from items import catalogue, list_query
from items.apps import EDITORS
from items.models import Item
from resilient_site import errors
from resilient_site.accounts.sessions import SessionStore
from resilient_site.errors import SiteError, as_site_error
from resilient_site.health import checks
from resilient_site.health.components import Status
from resilient_site.ratelimit.policies import override_policies
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


OWN = {"HTTP_ORIGIN": "http://testserver"}
NEW, SIGN_IN = "/items/-/new/", "/account/sign-in/"
TYPED = {"name": "<Bolt>", "description": "M8,\n40 mm", "tags": ""}
EDITH = {"username": "edith", "password": "edith-s-password"}


def fail_to_write(monkeypatch):
    def fail(*args, **kwargs):
        raise OperationalError("gone")

    monkeypatch.setattr(catalogue, "create_item", fail)


def test_error_page_knows_who_is_signed_in(client, reader, monkeypatch, settings):
    strict = Client(enforce_csrf_checks=True)
    for one in (client, strict):
        one.force_login(reader)
    client.raise_request_exception = False
    pages = [
        client.get("/items/nix/"),
        client.get("/nothing/"),
        client.get(NEW),
        strict.post(NEW, TYPED),
    ]
    monkeypatch.setattr(list_query, "paginate", lambda *args, **options: 1 / 0)
    pages.append(client.get("/items/"))
    reader.groups.add(Group.objects.get(name=EDITORS))
    fail_to_write(monkeypatch)
    pages.append(client.post(NEW, TYPED))
    settings.RATE_LIMITS = override_policies(settings.RATE_LIMITS, "read=1/h")
    limited = Client()
    limited.force_login(reader)
    pages += [limited.get("/items/nix/") for _ in range(2)]
    statuses = [page.status_code for page in pages]
    assert [*statuses[:6], statuses[-1]] == [404, 404, 403, 403, 500, 503, 429]
    for page in pages:
        shown = page.content.decode()
        assert ">rita</button>" in shown, page
        assert page["X-Request-ID"] in shown, page
        assert page["Cache-Control"] == "no-store"


def test_error_page_is_shown_where_the_session_cannot_be_read(
    editor_client, monkeypatch
):
    def fail(*args, **kwargs):
        raise OperationalError("gone")

    monkeypatch.setattr(SessionStore, "load", fail)
    page = editor_client.get("/nothing/")
    assert page.status_code == 404
    assert "edith" not in page.content.decode()


@pytest.mark.parametrize("origin", [{}, {"HTTP_ORIGIN": "https://evil.example"}])
def test_form_of_another_site_is_not_shown_to_be_sent(editor, origin, monkeypatch):
    """One press of the button would make it a request of the person's own."""
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(editor)
    anonymous, broken = Client(), Client()
    broken.force_login(editor)
    fail_to_write(monkeypatch)
    for client, status in ((strict, 403), (anonymous, 302), (broken, 503)):
        page = client.post(NEW, TYPED, **origin)
        assert page.status_code == status
        assert b"Bolt" not in page.content
        assert b"Send again" not in page.content


def test_password_is_not_shown_again(editor):
    client = Client(enforce_csrf_checks=True)
    for path in (SIGN_IN, "/account/security/"):
        data = EDITH | {"old_password": "edith-s-password", "new_password1": "other-42"}
        page = client.post(path, data, **OWN).content.decode()
        assert 'value="edith"' in page
        assert page.count('type="password"') == 3
        assert "edith-s-password" not in page
        assert "other-42" not in page


def carried(data):
    return {"carried-": "", **{f"carried-{name}": data[name] for name in data}}


def test_sign_in_carries_the_form_until_it_has_succeeded(client, editor):
    page = client.post(NEW, TYPED, **OWN)
    assert page.status_code == 401
    assert "no-store" in page["Cache-Control"]
    assert 'name="carried-name" value="&lt;Bolt&gt;"' in page.content.decode()
    data = carried(TYPED) | {"next": NEW}
    wrong = client.post(SIGN_IN, data | EDITH | {"password": "x"}, **OWN)
    assert 'name="carried-name" value="&lt;Bolt&gt;"' in wrong.content.decode()
    # Also when another window has signed in meanwhile.
    for _ in range(2):
        page = client.post(SIGN_IN, data | EDITH, **OWN)
        assert page.status_code == 200
        assert "no-store" in page["Cache-Control"]
        shown = page.content.decode()
        assert f'<form method="post" action="{NEW}"' in shown
        assert 'name="name" value="&lt;Bolt&gt;"' in shown
        assert "edith-s-password" not in shown
    assert not Item.objects.exists()


@pytest.mark.parametrize("address", ["https://evil.example/", "//evil.example", ""])
def test_carried_form_is_sent_to_no_other_site(client, editor, address):
    data = carried(TYPED) | {"next": address}
    page = client.post(SIGN_IN, data | EDITH, **OWN)
    assert page["Location"] == "/items/"


@pytest.mark.parametrize(
    "body", [b"x" * 2_000_000, b"&".join([b"a=1"] * 5_001)], ids=["long", "many"]
)
def test_form_that_cannot_be_read_gets_its_error_alone(client, body):
    kind = "application/x-www-form-urlencoded"
    page = client.post(NEW, body, kind, **OWN)
    assert page.status_code in (302, 400, 413)
    assert b"Send again" not in page.content
