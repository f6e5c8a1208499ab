"""Sign-in, lock-out and API tokens."""

import re
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from resilient_site import models
from resilient_site.accounts.sessions import SessionStore
from resilient_site.models import ApiToken
from resilient_site.resilience.cache_control import FRESH_S

pytestmark = [pytest.mark.once, pytest.mark.django_db]

SIGN_IN = "/account/sign-in/"
TOKENS = "/account/tokens/"


def sign_in(client, name="edith", password="edith-s-password", **options):
    data = {"username": name, "password": password}
    return client.post(SIGN_IN + "?next=/items/-/new/", data, **options)


def api_with(token: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {token}")
    return client


def test_user_signs_in_and_out(client, editor):
    assert b"csrfmiddlewaretoken" in client.get(SIGN_IN).content
    assert sign_in(client)["Location"] == "/items/-/new/"
    assert client.get("/items/-/new/").status_code == 200
    assert client.get("/account/sign-out/").status_code == 405
    client.post("/account/sign-out/")
    assert client.get("/items/-/new/").status_code == 302


def test_wrong_password_is_an_error_and_redirects_stay_on_the_site(client, editor):
    assert b"correct" in sign_in(client, password="wrong").content
    data = {"username": "edith", "password": "edith-s-password"}
    response = client.post(f"{SIGN_IN}?next=https://evil.example/", data)
    assert response["Location"] == "/items/"
    response = client.get(f"{SIGN_IN}?next={SIGN_IN}")  # who is signed in
    assert response["Location"] == "/items/"


@pytest.mark.parametrize("path", [SIGN_IN, "/admin/login/"])
def test_username_of_any_length_is_only_wrong(client, db, path):
    response = client.post(path, {"username": "x" * 500, "password": "y"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "session", [r'"%s"' % (r"\000" * 12), r'"0123456789\000"', "é" * 40, "x" * 5_000]
)
def test_malformed_session_cookie_is_anonymous(client, db, session):
    headers = {"HTTP_COOKIE": f"sessionid={session}"}
    for path, status in ((TOKENS, 302), ("/items/", 200), ("/api/v1/items/", 200)):
        assert client.get(path, **headers).status_code == status


def test_repeated_failures_lock_the_username_at_that_address(client, editor, settings):
    for _ in range(settings.AXES_FAILURE_LIMIT):
        response = sign_in(client, password="wrong")
    assert response.status_code == 429
    assert response["Retry-After"] == "900"
    assert b"Too many" in response.content

    assert sign_in(client).status_code == 429
    assert sign_in(client, REMOTE_ADDR="10.9.8.7").status_code == 302
    data = {"username": "edith", "password": "edith-s-password"}
    assert client.post("/admin/login/", data).status_code == 429


def test_failures_from_everywhere_slow_the_name_but_not_its_known_browser(
    client, editor, settings
):
    known = Client()
    assert sign_in(known).status_code == 302
    known.post("/account/sign-out/")
    quota = settings.RATE_LIMITS["sign-in-name"][2]
    for n in range(quota):
        response = sign_in(client, password="wrong", REMOTE_ADDR=f"10.0.0.{n}")
        assert response.status_code == 200
    response = sign_in(client, REMOTE_ADDR="10.1.0.1")
    assert (response.status_code, response.has_header("Retry-After")) == (429, True)
    data = {"username": "edith", "password": "edith-s-password"}
    response = client.post("/admin/login/", data, REMOTE_ADDR="10.1.0.1")
    assert response.status_code == 429
    # Neither another name nor the browser of its owner, which is no other's.
    assert sign_in(client, "rita", "x", REMOTE_ADDR="10.1.0.1").status_code == 200
    assert sign_in(known, REMOTE_ADDR="10.1.0.2").status_code == 302
    known.cookies["device"] = "edith"
    known.post("/account/sign-out/")
    assert sign_in(known, REMOTE_ADDR="10.1.0.2").status_code == 429


def test_locked_address_does_not_slow_the_name_elsewhere(client, editor, settings):
    for _ in range(settings.RATE_LIMITS["sign-in-name"][2] + 5):
        sign_in(client, password="wrong")
    assert sign_in(client, REMOTE_ADDR="10.1.0.1").status_code == 302


SECURITY, EVERYWHERE = "/account/security/", "/account/sign-out-everywhere/"
NEW = {"new_password1": "steel-bolt-42", "new_password2": "steel-bolt-42"}


@pytest.mark.parametrize(
    ("address", "data"),
    [
        (SECURITY, {"old_password": "wrong", **NEW}),
        (EVERYWHERE, {"password": "wrong"}),
        ("/admin/login/", {"username": "edith", "password": "wrong"}),
    ],
    ids=["change", "everywhere", "admin"],
)
def test_every_check_of_a_password_counts_towards_the_lockout(
    editor_client, editor, settings, address, data
):
    if address.startswith("/admin"):
        editor_client.logout()
    for _ in range(settings.AXES_FAILURE_LIMIT - 1):
        assert editor_client.post(address, data).status_code == 200
    assert editor_client.post(address, data).status_code == 429
    right = {name: "edith-s-password" for name in data if name.endswith("password")}
    assert editor_client.post(address, data | right).status_code == 429
    assert sign_in(Client()).status_code == 429
    editor.refresh_from_db()
    assert editor.check_password("edith-s-password")


def test_admin_has_no_other_page_to_change_the_password(client, admin):
    client.force_login(admin)
    assert client.get("/admin/password_change/")["Location"] == SECURITY
    assert client.post("/admin/password_change/", {}).status_code == 302


@pytest.mark.parametrize("revoked", [False, True])
def test_new_password_ends_other_sessions_and_tokens_if_asked(
    editor_client, editor, revoked
):
    other = Client()
    other.force_login(editor)
    _, token = ApiToken.objects.create(editor)
    data = {"old_password": "edith-s-password", **NEW}
    data |= {"revoke_tokens": "on"} if revoked else {}
    assert editor_client.post(SECURITY, data)["Location"] == SECURITY
    assert editor_client.get(TOKENS).status_code == 200
    assert other.get(TOKENS).status_code == 302
    assert ApiToken.objects.exists() == (not revoked)
    assert sign_in(Client(), password="steel-bolt-42").status_code == 302


@pytest.mark.parametrize("has_password", [True, False])
def test_person_signs_out_everywhere(editor_client, editor, has_password):
    if not has_password:  # as one who signs in elsewhere
        editor.set_unusable_password()
        editor.save()
        editor_client.force_login(editor)
    other = Client()
    other.force_login(editor)
    _, token = ApiToken.objects.create(editor)
    assert other.get(SECURITY).status_code == 200
    data = {"password": "edith-s-password"} if has_password else {}
    assert editor_client.post(EVERYWHERE, data)["Location"] == SIGN_IN
    for client in (editor_client, other):
        assert client.get(TOKENS).status_code == 302
    assert ApiToken.objects.exists()
    editor.refresh_from_db()
    assert editor.check_password("edith-s-password") == has_password


def test_session_key_is_hashed_in_the_cache(editor_client, monkeypatch):
    stored = []
    cache = SimpleNamespace(
        get=lambda name: None, add=lambda *call: stored.append(call)
    )
    monkeypatch.setattr(SessionStore, "_cache", cache)
    assert editor_client.get(TOKENS).status_code == 200
    ((name, data, seconds),) = stored
    assert data["_auth_user_id"]
    assert editor_client.cookies["sessionid"].value not in name + str(data)
    assert seconds == FRESH_S


def test_session_does_not_come_back_by_a_request_that_has_read_it(db, monkeypatch):
    monkeypatch.setattr(SessionStore, "_cache", LocMemCache("sessions", {}))
    session = SessionStore()
    session["_auth_user_id"] = "1"
    session.save()
    SessionStore._cache.clear()  # its seconds there are over
    load = DatabaseSession.load

    def load_and_sign_out(self: SessionStore) -> dict[str, Any]:
        data = load(self)
        SessionStore(session.session_key).delete()  # by another request
        return data

    with monkeypatch.context() as patch:
        patch.setattr(DatabaseSession, "load", load_and_sign_out)
        SessionStore(session.session_key).load()
    late = SessionStore(session.session_key)
    assert (late.load(), late.session_key) == ({}, None)


def test_tokens_of_a_person_are_bounded(editor_client, editor, reader, monkeypatch):
    monkeypatch.setattr(models, "MAX_TOKENS", 2)
    ApiToken.objects.create(editor, expiry=timedelta(seconds=-1))
    for _ in range(2):
        assert editor_client.post(TOKENS, {"name": "x", "days": "7"}).context["fresh"]
    response = editor_client.post(TOKENS, {"name": "x", "days": "7"})
    assert "valid tokens" in response.content.decode()
    with pytest.raises(CommandError, match="valid tokens"):
        call_command("create_token", "edith")
    assert ApiToken.objects.filter(user=editor).count() == 3
    ApiToken.objects.create(reader)


def test_token_is_shown_once_and_stored_as_a_hash(editor_client, editor):
    response = editor_client.post(TOKENS, {"name": "sync", "days": "30"})
    token = response.context["fresh"]
    assert token in response.content.decode()
    assert "no-store" in response["Cache-Control"]
    assert token not in editor_client.get(TOKENS).content.decode()

    stored = ApiToken.objects.get()
    assert (stored.user, stored.name) == (editor, "sync")
    assert token not in (stored.digest, stored.token_key)
    assert abs(stored.expiry - timezone.now() - timedelta(days=30)).seconds < 60

    assert api_with(token).post("/api/v1/items/", {"name": "x"}).status_code == 201


def test_user_sees_and_revokes_only_their_own_tokens(client, editor, reader):
    _, token = ApiToken.objects.create(editor, name="editors")
    revoke = f"{TOKENS}{ApiToken.objects.get().token_key}/revoke/"
    client.force_login(reader)
    assert "editors" not in client.get(TOKENS).content.decode()
    client.post(revoke)
    assert ApiToken.objects.exists()

    client.force_login(editor)
    assert client.get(revoke).status_code == 405
    client.post(revoke)
    assert api_with(token).post("/api/v1/items/", {"name": "x"}).status_code == 401


def test_administrator_sees_and_revokes_tokens(client, admin, editor):
    _, token = ApiToken.objects.create(editor, name="sync")
    client.force_login(admin)
    tokens = "/admin/resilient_site/apitoken/"
    assert b"sync" in client.get(tokens).content
    assert client.get(f"{tokens}add/").status_code == 403
    digest = ApiToken.objects.get().pk
    client.post(f"{tokens}{digest}/delete/", {"post": "yes"})
    assert api_with(token).get("/api/v1/items/").status_code == 401


def test_create_token_prints_only_the_token(editor):
    output = StringIO()
    call_command("create_token", "edith", "--ttl", "12h", stdout=output)
    assert re.fullmatch(r"\w{64}\n", output.getvalue())
    lifetime = ApiToken.objects.get().expiry - timezone.now()
    assert timedelta(hours=11) < lifetime <= timedelta(hours=12)
    assert api_with(output.getvalue().strip()).get("/api/v1/items").status_code == 200


@pytest.mark.parametrize(
    "arguments",
    [["unknown"], ["edith", "--ttl", "30"], ["edith", "--ttl", "0d"], ["rita"]],
    ids=" ".join,
)
def test_create_token_rejects_wrong_arguments(editor, reader, arguments):
    reader.is_active = False
    reader.save()
    with pytest.raises(CommandError):
        call_command("create_token", *arguments)
    assert not ApiToken.objects.exists()
