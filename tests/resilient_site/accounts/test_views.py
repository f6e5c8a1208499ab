"""Sign-in, lock-out and API tokens."""

import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from rest_framework.test import APIClient

from resilient_site.models import ApiToken

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
