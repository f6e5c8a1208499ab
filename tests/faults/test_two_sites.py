"""A change on one machine is shown on another in time, also without pub/sub."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import pytest

from resilient_site.accounts.verified_tokens import FRESH_S as TOKEN_FRESH_S
from resilient_site.resilience.cache_control import FRESH_S
from tests.faults.machines import Ground, Machine, Pair, by, until
from tests.private_server import BUSY_S, wait_for
from tests.servers import Postgres, Redis
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

# Well below the ten seconds that it takes without pub/sub.
RECEIVED_S = 1.0 + BUSY_S
BACK_S = 5.0
# Any one response, also while Redis hangs.
QUICK_S = 1.0 + BUSY_S
ITEMS = "/api/v1/items/"
LISTS = (f"{ITEMS}?search=machine", "/items/?search=machine")


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Iterator[Ground]:
    """Not shared with other tests: the messages on this Redis are of these machines."""
    folder = tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        postgres = stack.enter_context(contextmanager(running)(Postgres))
        redis = stack.enter_context(contextmanager(running)(Redis))
        yield Ground(postgres, redis, folder)


@pytest.fixture(scope="module")
def pair(ground) -> Iterator[Pair]:
    token, session = ground.site("here").fill()
    with ground.machine("here") as here, ground.machine("there") as there:
        yield Pair(ground, here, there, session, token)


@pytest.fixture(autouse=True)
def invalidations_are_received(pair) -> None:
    """Also if Redis failed in the last test."""
    pair.are_ready()
    item = new_item(pair)
    pair.there.cache(ITEMS + item)
    pair.write("PATCH", item, name=new_name(item))
    until(lambda: is_renamed(pair.there, item), BACK_S)


type Step = Callable[[Pair], object]
FAULTS: dict[str, tuple[Step, Step]] = {
    "none": (lambda p: None, lambda p: None),
    "hangs there": (
        lambda p: p.there.to_redis.hold(),
        lambda p: p.there.to_redis.let_go(),
    ),
    "hangs": (lambda p: p.ground.redis.pause(), lambda p: p.ground.redis.resume()),
}


@contextmanager
def broken(pair: Pair, fault: str) -> Iterator[None]:
    begin, end = FAULTS[fault]
    begin(pair)
    try:
        yield
    finally:
        end(pair)


def test_change_is_shown_here_at_once_and_there_within_a_second(pair):
    item = new_item(pair)
    paths = (ITEMS + item, f"/items/{item}/", *LISTS)
    pair.there.cache(*paths)
    pair.write("PATCH", item, name=new_name(item))
    for headers in ({}, by(pair.token)):
        for path in paths:
            assert is_shown(pair.here, path, new_name(item), **headers)
    took_s = until(
        lambda: all(is_shown(pair.there, path, new_name(item)) for path in paths),
        RECEIVED_S,
    )
    print(f"seen after {took_s:.3f} s")


@pytest.mark.parametrize("fault", list(FAULTS)[1:])
def test_change_is_shown_without_pubsub_when_responses_expire(pair, fault):
    hot, cold, last = (new_item(pair) for _ in range(3))
    pair.there.cache(ITEMS + hot, ITEMS + cold)
    pair.there.slowest_s = 0.0
    with broken(pair, fault):
        began = time.monotonic()
        for item in (hot, cold):
            pair.write("PATCH", item, name=new_name(item))
        took_s = until(lambda: is_renamed(pair.there, hot), FRESH_S + BUSY_S)
        wait_for(lambda: time.monotonic() - began > FRESH_S)
        # It was not requested since: also the first request gets the change.
        assert is_renamed(pair.there, cold)
        pair.there.cache(ITEMS + last)
        pair.write("PATCH", last, name=new_name(last))
    back_s = until(lambda: is_renamed(pair.there, last), BACK_S)
    print(f"seen after {took_s:.3f} s, and {back_s:.3f} s after Redis was back")
    assert pair.there.slowest_s < QUICK_S


def test_deletion_and_its_undo_are_shown_there(pair):
    item = new_item(pair)
    pair.there.cache(ITEMS + item, *LISTS)
    pair.write("DELETE", item)
    until(lambda: pair.there.get(ITEMS + item).status == 404, RECEIVED_S)
    until(lambda: not any(is_shown(pair.there, p, item) for p in LISTS), RECEIVED_S)
    deletion = pair.here.get(f"{ITEMS}{item}/history").json()["results"][0]
    path = f"/items/{item}/undo/{deletion['id']}/"
    assert pair.here.ask("POST", path, headers=pair.by_form).status == 302
    until(lambda: pair.there.get(ITEMS + item).status == 200, RECEIVED_S)
    until(lambda: all(is_shown(pair.there, p, item) for p in LISTS), RECEIVED_S)


@pytest.mark.parametrize(
    ("fault", "within_s"),
    [("none", RECEIVED_S), ("hangs there", TOKEN_FRESH_S + BUSY_S)],
)
def test_revoked_credentials_are_rejected_there(pair, fault, within_s):
    revoked, inactive = (f"person-{uuid4()}" for _ in range(2))
    tokens = shell(
        pair,
        "from django.core.management import call_command",
        f"for name in {revoked!r}, {inactive!r}:",
        "    User.objects.create_user(name)",
        "    call_command('create_token', name)",
    ).split()
    assert [is_known(pair.there, token) for token in tokens] == [True, True]
    with broken(pair, fault):
        shell(
            pair,
            f"User.objects.get(username={revoked!r}).auth_token_set.all().delete()",
            f"person = User.objects.get(username={inactive!r})",
            "person.is_active = False",
            "person.save()",
        )
        took_s = until(
            lambda: not any(is_known(pair.there, token) for token in tokens), within_s
        )
    print(f"refused after {took_s:.3f} s")


def test_new_machine_sends_stale_responses_of_others(pair):
    item, unseen = new_item(pair), new_item(pair)
    paths = (ITEMS + item, f"/items/{item}/", LISTS[0])
    pair.have_stored(item, *paths)
    own = f"/items/{item}/edit/"
    assert pair.here.get(own, **pair.by_form).status == 200
    pair.ground.postgres.pause()
    try:
        with pair.ground.machine("new") as new:
            for path in paths:
                # On a busy machine a look-up in Redis may take longer than it may.
                answer = wait_for(lambda path=path: new.found(path))
                assert item.encode() in answer.body
                assert "detail=origin-failed" in answer.headers["Cache-Status"]
            assert b"This is how it was at" in new.get(paths[1]).body
            assert new.get("/readyz").status == 200
            for path, headers in ((ITEMS + unseen, {}), (own, pair.by_form)):
                assert new.site.get(path, Host="127.0.0.1", **headers).status == 503
    finally:
        pair.ground.postgres.resume()


def new_item(pair: Pair) -> str:
    item = f"machine.{uuid4()}"
    pair.write("POST", id=item, name=f"machine {item}")
    return item


def new_name(item: str) -> str:
    return f"machine renamed {item}"


def is_shown(machine: Machine, path: str, text: str, **headers: str) -> bool:
    return text.encode() in machine.get(path, **headers).body


def is_renamed(machine: Machine, item: str) -> bool:
    return is_shown(machine, ITEMS + item, new_name(item))


def is_known(machine: Machine, token: str) -> bool:
    """Return whether the token is valid: it may not write (403, not 401)."""
    return machine.ask("POST", ITEMS, {}, by(token)).status == 403


def shell(pair: Pair, *lines: str) -> str:
    """Do it in a process of its own on the machine here; return what it prints."""
    code = "\n".join(("from django.contrib.auth.models import User", *lines))
    done = pair.here.site.manage("shell", "-v0", "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout
