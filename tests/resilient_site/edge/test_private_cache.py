"""Private responses reach no other client, nor their own after sign-out."""

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from zlib import crc32

import pytest
from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client

from resilient_site.accounts.verified_tokens import (
    session_digest,
    token_digest,
    verified_tokens,
)
from resilient_site.edge.cache import private_cache
from resilient_site.edge.cache.invalidation import (
    CHANGES,
    EVERYTHING,
    SLOTS,
    invalidations,
    mark,
    subscriber,
)
from resilient_site.edge.cache.invalidation import now as moment
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import EdgeRequest, Priority
from resilient_site.models import ApiToken
from resilient_site.resilience.cache_control import (
    OWN,
    PRIVATE,
    credential_tag,
    share_with_anonymous,
)
from tests.resilient_site.edge.clients import HOST, ask, elsewhere, get, run
from tests.resilient_site.edge.views import now, thing_now, thing_response

pytestmark = [
    pytest.mark.urls("tests.resilient_site.edge.views"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("no_connection_stays"),
    pytest.mark.once,
]
REST, PAGE = "/api/v1/mine", "/mine"


@pytest.fixture
def cookie(reader) -> str:
    return cookie_of(reader)


def cookie_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"


@pytest.fixture
def token(reader) -> str:
    return token_of(reader)


def token_of(user: User) -> str:
    return f"Token {ApiToken.objects.create(user=user)[1]}"


def incoming(headers: list[tuple[bytes, bytes]]) -> EdgeRequest:
    scope = {"method": "GET", "path": REST, "query_string": b""}
    return EdgeRequest({**scope, "headers": [HOST, *headers]})


def fail() -> None:
    now.respond = lambda request: HttpResponse(status=503)


async def fetch(path: str = PAGE, **headers: str):
    """Send a request, and write what may be stored to the disk."""
    answer = await get(path, **headers)
    response_store.flush().result()
    return answer


@run
async def test_stale_private_response_is_sent_to_its_own_client(cookie, token):
    for path, headers in ((PAGE, {"Cookie": cookie}), (REST, {"Authorization": token})):
        assert (await fetch(path, **headers)).body == b"of rita"
    fail()
    for path, headers in ((PAGE, {"Cookie": cookie}), (REST, {"Authorization": token})):
        after = await get(path, **headers)
        assert (after.status, after.body, after.is_hit) == (200, b"of rita", True)
        assert (await get(path, "HEAD", **headers)).status == 200
        for other in ({}, {"Cookie": "sessionid=x"}, {"Authorization": "Token x"}):
            assert (await get(path, **other)).status in (401, 503)


@run
async def test_sessions_with_the_same_authorization_are_two_clients(cookie, editor):
    """Behind a proxy with a password all requests have the same Authorization."""
    proxy = {"Authorization": "Basic c2hhcmVk"}
    assert (await fetch(PAGE, Cookie=cookie, **proxy)).body == b"of rita"
    theirs = await elsewhere(cookie_of, editor)
    fail()
    assert (await get(PAGE, Cookie=cookie, **proxy)).status == 200
    assert (await get(PAGE, Cookie=theirs, **proxy)).status == 503
    assert (await get(PAGE, **proxy)).status == 503
    # A header that Django does not read makes no other client.
    assert (await get(PAGE, Cookie=cookie)).status == 200


@run
async def test_session_is_recognized_where_django_reads_it(cookie):
    for spelling in (
        " {} ", "a=b; {}", "sessionid=other; {}", "csrftoken=x;{}",
        "\u00a0{}", "a=b;\t{}", "{}; a=b",
    ):  # fmt: skip
        now.respond = thing_now
        header = (b"cookie", spelling.format(cookie).encode())
        answer = await ask(PAGE, headers=[header])
        request = incoming([header])
        is_recognized = request.priority is Priority.AUTHENTICATED_READ
        assert (answer.status == 200) == is_recognized
        response_store.flush().result()
        fail()
        assert (await get(PAGE)).status == 503
        assert (await get(PAGE, Cookie="sessionid=other")).status == 503


def sign_out(user: User, cookie: str) -> None:
    client = Client()
    client.cookies.load(cookie)
    client.logout()


def deactivate(user: User, cookie: str) -> None:
    user.is_active = False
    user.save()


def revoke(user: User, cookie: str) -> None:
    for token in ApiToken.objects.filter(user=user):
        token.delete()


def give_permission(user: User, cookie: str) -> None:
    user.user_permissions.add(Permission.objects.first())


def leave_group(user: User, cookie: str) -> None:
    user.groups.clear()


def be_removed_from_group(user: User, cookie: str) -> None:
    user.groups.get().user_set.remove(user)


def restrict_group(user: User, cookie: str) -> None:
    user.groups.get().permissions.clear()


def delete_group(user: User, cookie: str) -> None:
    user.groups.all().delete()


def delete(user: User, cookie: str) -> None:
    user.delete()


CHANGES_OF_A_USER = [
    sign_out, deactivate, give_permission, revoke, leave_group, be_removed_from_group,
    restrict_group, delete_group, delete,
]  # fmt: skip


def member(name: str) -> User:
    user = User.objects.create_user(name)
    user.groups.create(name=name).permissions.add(Permission.objects.first())
    return user


@run
async def test_change_of_a_user_voids_their_private_responses():
    for change in CHANGES_OF_A_USER:
        user = await elsewhere(member, change.__name__)
        cookie = await elsewhere(cookie_of, user)
        token = await elsewhere(token_of, user)
        now.respond = thing_now
        assert (await fetch(Cookie=cookie)).status == 200
        assert (await fetch(REST, Authorization=token)).status == 200
        await elsewhere(change, user, cookie)
        fail()
        assert (await get(PAGE, Cookie=cookie)).status == 503
        assert (await get(REST, Authorization=token)).status in (401, 503)


@run
async def test_rejected_credential_is_void_at_every_address(cookie, token, reader):
    """Also of a change that nothing has announced, such as `QuerySet.update`."""
    users = User.objects.filter(pk=reader.pk)
    for path, headers in ((REST, {"Authorization": token}), (PAGE, {"Cookie": cookie})):
        now.respond = thing_now
        before = mark(moment(), [CHANGES])
        assert (await fetch(path, **headers)).status == 200
        verified_tokens()._entries.clear()  # as FRESH_S later
        await elsewhere(users.update, is_active=False)
        assert (await get(f"{path}?other", **headers)).status in (401, 403)
        await elsewhere(users.update, is_active=True)
        fail()
        assert (await get(path, **headers)).status == 503
        # To anybody else nothing has changed.
        assert invalidations.is_current(before)


@run
async def test_inactive_user_whom_a_token_shows_has_no_stale_page(
    cookie, token, reader
):
    """Nor is that a change to anybody else, however often it is shown."""
    assert (await fetch(Cookie=cookie)).status == 200
    before = mark(moment(), [CHANGES])
    users = User.objects.filter(pk=reader.pk)
    await elsewhere(users.update, is_active=False)
    assert (await get(REST, Authorization=token)).status == 401
    fail()
    assert (await get(PAGE, Cookie=cookie)).status == 503
    assert invalidations.is_current(before)


def guess(digest: Callable[[str], str], tag: str) -> str:
    """Return a credential whose tag has the checksum of `tag`, as any client can."""
    wanted = crc32(tag.encode()) % SLOTS
    guesses = map(str, count())
    return next(
        one
        for one in guesses
        if crc32(credential_tag(digest(one)).encode()) % SLOTS == wanted
    )


@pytest.mark.parametrize("tag", [EVERYTHING, PRIVATE])
@run
async def test_invalid_credential_voids_nothing_else(tag):
    session = guess(session_digest, tag)
    token = guess(lambda one: token_digest(one.encode()), tag)
    before = mark(moment(), [tag])
    assert (await get(PAGE, Cookie=f"sessionid={session}")).status == 403
    now.respond = lambda request: HttpResponse(status=401)
    assert (await get(REST, Authorization=f"Token {token}")).status == 401
    assert invalidations.is_current(before)


@run
async def test_private_response_is_not_sent_where_other_machines_are_not_heard(
    cookie, settings, monkeypatch
):
    settings.EMBEDDED = False
    await fetch(Cookie=cookie)
    fail()
    assert (await get(PAGE, Cookie=cookie)).status == 200
    subscriber.is_subscribed.clear()
    # For a moment, as without a Redis.
    assert (await get(PAGE, Cookie=cookie)).status == 200
    monkeypatch.setattr(private_cache, "FRESH_S", 0)
    assert (await get(PAGE, Cookie=cookie)).status == 503


async def fetch_elsewhere(cookie: str) -> None:
    """Fetch the page from another machine, which keeps nothing that this one finds."""
    assert (await fetch(Cookie=cookie)).body == b"of rita"
    response_store.max_disk_bytes = 0
    fail()


@pytest.mark.usefixtures("server", "listening")
@run
async def test_private_response_of_another_machine_is_sent_to_its_own_client(
    cookie, editor
):
    await fetch_elsewhere(cookie)
    after = await get(PAGE, Cookie=cookie)
    assert (after.status, after.body, after.is_hit) == (200, b"of rita", True)
    theirs = await elsewhere(cookie_of, editor)
    for headers in ({}, {"Cookie": theirs}, {"Cookie": "sessionid=x"}):
        assert (await get(PAGE, **headers)).status == 503


@pytest.mark.usefixtures("server", "listening")
@run
async def test_change_of_a_user_voids_their_responses_of_other_machines():
    for change in CHANGES_OF_A_USER:
        response_store.max_disk_bytes, now.respond = 2**20, thing_now
        user = await elsewhere(member, f"{change.__name__} there")
        cookie = await elsewhere(cookie_of, user)
        token = await elsewhere(token_of, user)
        assert (await fetch(Cookie=cookie)).status == 200
        assert (await fetch(REST, Authorization=token)).status == 200
        response_store.max_disk_bytes = 0
        await elsewhere(change, user, cookie)
        fail()
        assert (await get(PAGE, Cookie=cookie)).status == 503
        assert (await get(REST, Authorization=token)).status in (401, 503)


@pytest.mark.usefixtures("server", "listening")
@pytest.mark.parametrize("missing", ["recognized", "heard since", "heard now"])
@run
async def test_private_response_of_another_machine_is_for_clients_known_here(
    cookie, missing, settings, monkeypatch
):
    """What this machine cannot know to hold still, it does not send."""
    settings.EMBEDDED = False
    await fetch_elsewhere(cookie)
    if missing == "recognized":
        verified_tokens()._entries.clear()
    elif missing == "heard since":
        monkeypatch.setattr(subscriber, "_subscribed_at", moment())
    else:
        subscriber.is_subscribed.clear()
    assert (await get(PAGE, Cookie=cookie)).status == 503


@run
async def test_private_response_expires_with_its_token(reader):
    expiry = timedelta(seconds=30)
    _, token = await elsewhere(ApiToken.objects.create, user=reader, expiry=expiry)
    await fetch(REST, Authorization=f"Token {token}")
    request = incoming([(b"authorization", f"Token {token}".encode())])
    copy = await private_cache.find(request)
    assert copy is not None
    assert 0 < copy.fresh_s + copy.stale_if_error_s <= 30


@run
async def test_private_response_is_deleted_when_it_is_forbidden(cookie):
    await fetch(Cookie=cookie)
    now.respond = lambda request: HttpResponse(status=403)
    assert (await fetch(Cookie=cookie)).status == 403
    fail()
    assert (await get(PAGE, Cookie=cookie)).status == 503


@run
async def test_page_with_a_form_is_stored_without_its_cookie(cookie):
    def respond(request):
        response = HttpResponse("a form", headers={"Cache-Control": OWN})
        assert request.user.is_authenticated
        response.set_cookie("csrftoken", "secret")
        return response

    now.respond = respond
    assert "set-cookie" in (await fetch(Cookie=cookie)).headers
    fail()
    after = await get(PAGE, Cookie=cookie)
    assert (after.status, "set-cookie" in after.headers) == (200, False)


@run
async def test_response_that_rotates_the_session_is_not_stored(cookie):
    def respond(request):
        request.session.cycle_key()
        return HttpResponse(f"of {request.user}", headers={"Cache-Control": OWN})

    now.respond = respond
    assert (await fetch(Cookie=cookie)).body == b"of rita"
    fail()
    assert (await get(PAGE, Cookie=cookie)).status == 503


@run
async def test_response_to_a_session_is_not_shared(cookie, token):
    def respond(request):
        response = HttpResponse(f"for {request.user}")
        share_with_anonymous(request, response, "thing")
        return response

    now.respond = respond
    assert (await fetch("/thing", Cookie=cookie)).body == b"for rita"
    assert (await fetch("/thing")).body == b"for AnonymousUser"
    assert (await fetch("/thing", Cookie=cookie)).body == b"for rita"
    # The CSRF cookie identifies no client.
    answer = await fetch("/thing", Cookie="csrftoken=x")
    assert (answer.body, answer.is_hit) == (b"for AnonymousUser", True)
    for headers in (
        {"Cookie": "sessionid=unknown"},
        {"Authorization": "Token unknown"},
        {"Authorization": "Basic x", "Cookie": "csrftoken=x"},
    ):
        answer = await fetch("/thing", **headers)
        assert (answer.body, answer.is_hit) == (b"for AnonymousUser", False)
    assert [seen["cookie"] for seen in now.asked].count(None) >= 1


@run
async def test_response_that_varies_by_token_is_shared_by_those_without_one(token):
    def greeting(**headers: str):
        return get("/api/v1/greeting", **headers)

    assert (await greeting(Authorization=token)).json() == "rita"
    first, second = await greeting(), await greeting()
    assert (first.json(), first.is_hit, second.is_hit) == ("", False, True)
    again = await greeting(Authorization=token)
    assert (again.json(), again.is_hit) == ("rita", False)


@run
async def test_request_of_one_client_does_not_change_the_shared_response():
    now.respond = lambda request: thing_response(request.get_full_path())
    for headers in ({"Authorization": "Token x"}, {"Cookie": "other=x"}):
        answer = await fetch("/thing?q=1&poison=1", **headers)
        assert ("stored" in answer.cached) == ("Cookie" in headers)
    assert (await get("/thing?q=1")).json() == "/thing?q=1"
