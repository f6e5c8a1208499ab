"""The register of valid credentials, and how it ends."""

import time
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.utils import timezone
from rest_framework.test import APIClient

from resilient_site.accounts.verified_tokens import (
    FRESH_S,
    RECOGNIZED_S,
    VerifiedTokens,
    credentials,
    verified_tokens,
)
from resilient_site.edge.cache.invalidation import invalidations, mark, now
from resilient_site.models import ApiToken
from resilient_site.resilience.cache_control import inactive_tag

pytestmark = [pytest.mark.once, pytest.mark.django_db]


def token_of(user: User, **options: object) -> bytes:
    return ApiToken.objects.create(user, **options)[1].encode()


def digest_of(token: bytes) -> str:
    (digest,) = credentials(b"Token " + token, "")
    return digest


def post_item(token: bytes) -> int:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {token.decode()}")
    return client.post("/api/v1/items/", {"name": "x"}).status_code


def test_token_is_looked_up_once_and_then_valid(editor, django_assert_num_queries):
    token, register = token_of(editor), verified_tokens()
    digest = digest_of(token)
    assert (register.is_valid(digest), register.is_recognized(digest)) == (False, False)
    with django_assert_num_queries(2):  # token with user, permissions
        register.verify_token(token)
    with django_assert_num_queries(0):
        verified = register.verify_token(token)
        assert verified is not None
        assert verified.user.has_perm("items.add_item")
    assert (register.is_valid(digest), register.is_recognized(digest)) == (True, True)


@pytest.mark.parametrize("token", [b"", b"x" * 64, b"\xff", "é".encode(), b"0" * 9000])
def test_token_that_cannot_be_one_is_not_verified(token):
    assert verified_tokens().verify_token(token) is None
    assert not verified_tokens().is_recognized(digest_of(token))


def test_verified_token_is_a_copy_for_its_caller(editor):
    register, text = VerifiedTokens(), token_of(editor)
    first, second = register.verify_token(text), register.verify_token(text)
    first.user.username, first.expiry = "other", None
    first.user._state.adding = True
    assert second.user.username == "edith"
    assert second.expiry is not None
    assert not second.user._state.adding


def revoke(user: User) -> None:
    user.auth_token_set.all().delete()


def deactivate(user: User) -> None:
    user.is_active = False
    user.save()


def set_password(user: User) -> None:
    user.set_password("another-password")
    user.save()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (revoke, 401),
        (User.delete, 401),
        (deactivate, 401),
        (set_password, 201),
        (lambda user: User.objects.get(pk=user.pk).groups.clear(), 403),
        (lambda user: Group.objects.get(user=user).user_set.clear(), 403),
        (lambda user: Group.objects.all().delete(), 403),
        (lambda user: Group.objects.get(user=user).permissions.clear(), 403),
    ],
    ids=["token", "user", "inactive", "password", "own", "members", "group", "rights"],
)
def test_change_of_a_user_ends_validity_at_once(
    editor, change, status, django_capture_on_commit_callbacks
):
    token = token_of(editor)
    assert post_item(token) == 201
    with django_capture_on_commit_callbacks(execute=True):
        change(editor)
    assert not verified_tokens().is_valid(digest_of(token))
    # In the queue it keeps its rank until it is found invalid.
    assert verified_tokens().is_recognized(digest_of(token))
    assert post_item(token) == status
    assert verified_tokens().is_recognized(digest_of(token)) == (status != 401)


def test_inactive_user_who_is_met_loses_all_that_is_stored_for_it(editor):
    """A change without a signal may be noticed here first."""
    register, token = VerifiedTokens(), token_of(editor)
    mine = mark(now(), [inactive_tag(editor.pk)])
    User.objects.filter(pk=editor.pk).update(is_active=False)
    assert invalidations.is_current(mine)
    assert register.verify_token(token) is None
    assert not invalidations.is_current(mine)


def test_expired_token_is_neither_valid_nor_recognized(editor, time_machine):
    token, register = token_of(editor, expiry=timedelta(minutes=5)), VerifiedTokens()
    assert register.verify_token(token)
    time_machine.move_to(timezone.now() + timedelta(minutes=6))
    assert not register.is_valid(digest_of(token))
    assert not register.is_recognized(digest_of(token))
    assert register.verify_token(token) is None


def test_validity_and_recognition_have_their_time(editor, monkeypatch):
    register, token = VerifiedTokens(), token_of(editor)
    register.verify_token(token)
    started = time.monotonic()
    digest = digest_of(token)
    monkeypatch.setattr(time, "monotonic", lambda: started + FRESH_S + 1)
    assert (register.is_valid(digest), register.is_recognized(digest)) == (False, True)
    monkeypatch.setattr(time, "monotonic", lambda: started + RECOGNIZED_S + 1)
    assert not register.is_recognized(digest)


def test_session_is_recognized_by_its_key():
    register = VerifiedTokens()
    register.record_session("a" * 32, 1, now())
    (session,) = credentials(b"Basic c2hhcmVk", "a" * 32)
    assert register.is_recognized(session)
    assert not register.is_recognized(credentials(b"", "b" * 32)[0])
    assert credentials(b"", "") == ()


def test_credentials_are_verified_by_token_or_session(editor, client):
    client.force_login(editor)
    key = client.cookies["sessionid"].value
    token, register = b"Token " + token_of(editor), VerifiedTokens()
    for authorization, session_key, is_valid in (
        (token, "", True),
        (token, "x" * 32, True),
        (b"", key, True),
        (b"Basic c2hhcmVk", key, True),
        (b"Token x", key, True),
        (b"", "x" * 32, False),
        (b"Token x", "", False),
        (b"", "", False),
    ):
        assert register.verify(authorization, session_key) is is_valid
    assert len(register) == 2
    digest = credentials(b"", key)[0]
    assert register.recognized_user_id(digest) == editor.pk
    register.forget_session(key)
    assert not register.is_recognized(digest)


def test_token_and_session_of_one_request_are_both_its_credentials():
    assert len(credentials(b"Token x", "a" * 32)) == 2
    assert credentials(b"TOKEN  x", "")[0] == credentials(b"token x", "")[0]
