"""The last known answers in Redis: for everybody, bounded, and believed if signed."""

import asyncio
from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
import redis
from django.core.cache import caches
from django.http import HttpResponse
from django.test import override_settings

from resilient_site import settings as as_started
from resilient_site.edge.cache import keys, stale_responses, stores
from resilient_site.edge.cache import redis_stale_store as module
from resilient_site.edge.cache.invalidation import generations, mark, now
from resilient_site.edge.cache.redis_stale_store import (
    COPY_MAX_BYTES,
    PLACE_BYTES,
    WAITING_MAX,
    Distant,
    cache,
    seal,
    unseal,
)
from resilient_site.resilience.cache_control import OWN, STALE_IF_ERROR_S
from tests.private_server import wait_for
from tests.resilient_site.cache.test_backend import recover
from tests.resilient_site.edge.clients import get, run
from tests.resilient_site.edge.test_last_known import copy
from tests.resilient_site.edge.views import now as view

MAX_BYTES = 64 * PLACE_BYTES


@pytest.fixture
def server(redis_server, monkeypatch):
    """Redis, with nothing in it; it is waited for, however busy this machine is."""
    aliases = as_started.caches(redis_server.url())
    monkeypatch.setattr(module, "TIMEOUT_S", 5)
    monkeypatch.setattr(module, "STOP_S", 5)
    with override_settings(CACHES=aliases):
        cache().clear()
        yield redis.Redis.from_url(redis_server.url())
        cache().clear()


@pytest.fixture
def kept(server):
    distant = Distant(MAX_BYTES)
    distant.start()
    yield distant
    distant.stop()


def body_of(distant: Distant, key: str = "key") -> bytes | None:
    found = asyncio.run(distant.get(key))
    return found.body if found else None


def write_out(distant: Distant) -> None:
    distant.stop()
    distant.start()


def another(distant: Distant) -> Distant:
    """Return that of a machine which has kept nothing."""
    write_out(distant)
    other = Distant(distant.places * PLACE_BYTES)
    other.start()
    return other


def test_another_machine_finds_the_copy_and_takes_it_for_outdated(kept):
    original = copy(vary=frozenset())
    kept.keep("key", original)
    other = another(kept)
    assert not other.is_empty()
    found = asyncio.run(other.get("key"))
    assert found is not None
    assert abs(found.age - original.age) < 1
    as_found = replace(original, stored=found.stored, mark=found.mark)
    assert found == as_found
    assert not keys.is_fresh(found)
    assert not keys.may_be_shown_meanwhile(found)
    assert found.is_for_want_of_better()
    assert body_of(other, "other") is None
    other.stop()


def test_all_of_it_ends_within_a_day(kept, server):
    kept.keep("key", copy())
    write_out(kept)
    keys = server.keys("*last-known*")
    assert len(keys) == 2
    assert all(0 < server.ttl(key) <= STALE_IF_ERROR_S for key in keys)


def test_what_is_forgotten_is_gone(kept):
    kept.keep("key", copy())
    kept.forget("key")
    write_out(kept)
    assert body_of(kept) is None
    kept.keep("key", copy())  # the same as before, and yet it is written
    write_out(kept)
    assert body_of(kept) == b"body"


def test_what_is_to_be_forgotten_comes_before_what_is_to_be_kept(kept):
    kept.keep("key", copy())
    write_out(kept)
    for n in range(2 * WAITING_MAX):
        kept.keep(f"another {n}", copy(b"%d" % n))
    kept.forget("key")
    write_out(kept)
    assert body_of(kept) is None


def test_what_has_changed_meanwhile_does_not_take_the_place_of_what_is_newer(kept):
    read_before = copy(mark=mark(now() - 10**9, ["distant"]))
    generations.renew(["distant"])
    kept.keep("key", read_before)
    write_out(kept)
    assert body_of(kept) is None
    kept.keep("key", copy())  # the same as before, and yet it is written
    write_out(kept)
    assert body_of(kept) == b"body"


def test_what_is_not_for_everybody_is_never_kept(kept):
    kept.keep("key", copy(fresh_s=0))
    write_out(kept)
    assert kept.is_empty()


def test_however_many_there_are_they_have_so_many_places(kept, server):
    for n in range(3 * kept.places):
        kept.keep(f"key {n}", copy(b"%d" % n))
        if n % (WAITING_MAX // 2) == 0:
            write_out(kept)
    write_out(kept)
    assert len(server.keys("*")) <= kept.places + 2  # that there are any; generation
    assert body_of(kept, f"key {3 * kept.places - 1}") is not None
    found = [body_of(kept, f"key {n}") for n in range(3 * kept.places)]
    assert all(body in (None, b"%d" % n) for n, body in enumerate(found))


def test_what_is_too_large_is_not_kept(kept):
    kept.keep("large", copy(b"x" * COPY_MAX_BYTES))
    assert not kept._waiting
    kept.keep("text", copy(b"x" * (COPY_MAX_BYTES // 2)))
    write_out(kept)
    assert body_of(kept, "text") is not None


@pytest.mark.parametrize("where", [0, -1])
def test_what_somebody_else_has_written_is_not_shown(kept, where, caplog):
    forged = bytearray(b64decode(seal("key", copy())))
    forged[where] ^= 1
    cache().set(kept._place("key"), b64encode(bytes(forged)).decode())
    assert body_of(kept) is None
    assert "signature" in caplog.text
    with pytest.raises(ValueError, match="signature"):
        unseal("key", "")


@pytest.mark.parametrize("nonsense", ["x", 7, [], {}, "ä", True, "AAAA"])
def test_nonsense_is_not_shown(kept, nonsense):
    cache().set(kept._place("key"), nonsense)
    assert body_of(kept) is None


def test_another_key_with_the_same_place_is_told_apart():
    assert unseal("other", seal("key", copy())) is None


def test_what_may_not_have_come_there_is_sent_again(redis_own):
    with override_settings(CACHES=as_started.caches(redis_own.url())):
        distant = Distant(MAX_BYTES)
        distant.start()
        redis_own.kill()
        distant.keep("key", copy())
        wait_for(lambda: cache().is_degraded)
        redis_own.start()
        recover(cache())
        assert body_of(distant) is None
        distant.keep("key", copy())
        wait_for(lambda: body_of(distant) == b"body")
        distant.stop()


def test_without_redis_it_keeps_nobody(kept, redis_own):
    with override_settings(CACHES=as_started.caches(redis_own.url())):
        away = Distant(MAX_BYTES)
        away.start()
        redis_own.pause()
        away.keep("key", copy())
        assert body_of(away) is None
        assert away.is_empty()
        redis_own.resume()
        away.stop()


@pytest.mark.parametrize("max_bytes", [0, PLACE_BYTES])
def test_without_a_place_or_a_redis_there_is_none(max_bytes):
    assert not caches["responses"].is_shared
    off = Distant(max_bytes)
    off.start()
    off.keep("key", copy())
    assert off._writer is None
    assert body_of(off) is None
    assert off.is_empty()


@pytest.mark.urls("tests.resilient_site.edge.views")
@pytest.mark.django_db
class TestAtTheEdge:
    @pytest.fixture
    def distant(self, server, monkeypatch):
        distant = Distant(MAX_BYTES)
        monkeypatch.setattr(stale_responses, "distant", distant)
        distant.start()
        yield distant
        distant.stop()

    @staticmethod
    def fail_and_forget() -> None:
        """Be another machine, with nothing in memory or on the disk."""
        stores.copies.__init__(stores.copies.max_bytes)  # type: ignore[misc]
        view.respond = lambda request: HttpResponse(status=503)

    def test_what_others_have_shown_is_shown_as_old(self, distant):
        @run
        async def test() -> None:
            first = await get()
            write_out(distant)
            self.fail_and_forget()
            for _ in range(2):
                answer = await get()
                assert (answer.status, answer.body) == (200, first.body)
                assert "detail=origin-failed" in answer.cached
            assert (await get("/thing/other")).status == 503

        test()

    def test_nothing_of_one_person_is_kept(self, distant):
        def respond(request):
            response = HttpResponse("of rita")
            response["Cache-Control"] = OWN
            return response

        @run
        async def test() -> None:
            view.respond = respond
            for headers in ({}, {"Cookie": "sessionid=x"}, {"Authorization": "x"}):
                assert (await get("/thing", **headers)).body == b"of rita"
            write_out(distant)
            assert distant.is_empty()

        test()

    def test_what_is_gone_is_not_shown(self, distant):
        @run
        async def test() -> None:
            await get()
            generations.renew(["thing"])
            view.respond = lambda request: HttpResponse(status=404)
            assert (await get()).status == 404
            write_out(distant)
            self.fail_and_forget()
            assert (await get()).status == 503

        test()
