"""No call of the cache raises or waits long, and nothing changed comes back."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import redis
from asgiref.sync import sync_to_async

from resilient_site.cache import lua_scripts
from resilient_site.cache.backend import COPY_S, GuardedCache
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State
from tests.private_server import BUSY_S, wait_for
from tests.resilient_site.resilience.nonsense import (
    answering,
    drip,
    garbage,
    hang_up,
    silence,
    wrong_shape,
)
from tests.running import ROOT

BUDGET_S = 0.05
# What a busy machine may add to a wait.
NOISE_S = 0.03

pytestmark = [pytest.mark.usefixtures("breaker"), pytest.mark.once]


@pytest.fixture
def cache(redis_own):
    return GuardedCache(redis_own.url(), {})


@pytest.fixture
def patient(redis_own):
    """One whose time a busy machine does not use up."""
    return GuardedCache(redis_own.url(), {"OPTIONS": {"BUDGET_MS": 5_000}})


@pytest.fixture
def admin(redis_own):
    """A client of Redis that knows nothing of the cache."""
    with redis.Redis(port=redis_own.port) as client:
        yield client


@pytest.fixture
def memory_only():
    cache = GuardedCache("", {})
    cache.clear()
    return cache


OPERATIONS = {
    "get": lambda c: c.get("a"),
    "set": lambda c: c.set("a", 1),
    "add": lambda c: c.add("a", [1]),
    "add counter": lambda c: c.add("n", 1, 60),
    "touch": lambda c: c.touch("a", 60),
    "has_key": lambda c: c.has_key("a"),
    "in": lambda c: "a" in c,
    "get_many": lambda c: c.get_many(["a", "b"]),
    "set_many": lambda c: c.set_many({"a": 1, "b": 2}),
    "get_or_set": lambda c: c.get_or_set("new", lambda: 1),
    "delete": lambda c: c.delete("a"),
    "delete_many": lambda c: c.delete_many(["a", "b"]),
    "clear": lambda c: c.clear(),
    "incr": lambda c: c.add("m", 1) and c.incr("m"),
    "decr": lambda c: c.add("o", 1) and c.decr("o"),
    "incr_version": lambda c: c.set("v", 1) or c.incr_version("v"),
    "decr_version": lambda c: c.set("v", 1, version=3) or c.decr_version("v", 1, 3),
}
# Those that are two calls here.
TWO = {"incr", "decr", "incr_version", "decr_version"}


def timed(operation, cache):
    started = time.monotonic()
    operation(cache)
    return time.monotonic() - started


def assert_bounded(cache, breaker, names=OPERATIONS):
    for name in names:
        # The breaker must not help: each call meets the fault itself.
        breaker.hold(State.CLOSED)
        cache._remote.away = False
        cache._remote.journal.keys.clear()
        # A machine that is busy delays one call, a wait that is too long all.
        tries = (timed(OPERATIONS[name], cache) for _ in range(4))
        longest = BUDGET_S * (1 + (name in TWO)) + NOISE_S
        assert any(took < longest for took in tries), name


# --- while Redis answers


def test_it_is_a_cache_of_django(patient):
    patient.set("a", {"x": [1, "ü", None]}, 60)
    assert patient.get("a") == {"x": [1, "ü", None]}
    assert patient.get("missing", "default") == "default"
    assert not patient.add("a", 1)
    assert patient.add("b", "new")
    assert patient.touch("b", 100)
    assert not patient.touch("missing")
    assert patient.get_many(["a", "b", "c"]).keys() == {"a", "b"}
    assert patient.set_many({"d": 1, "e": 2.5}) == []
    assert (patient.get("d"), patient.get("e")) == (1, 2.5)
    assert patient.delete("d")
    assert not patient.delete("d")
    patient.delete_many(["e", "b"])
    assert "e" not in patient
    assert patient.get_or_set("f", lambda: "made") == "made"
    assert patient.get_or_set("f", "other") == "made"
    patient.set("none", None)
    assert patient.has_key("none")
    assert patient.get("none", "default") is None
    patient.set("a", 1, 0)
    assert "a" not in patient
    patient.clear()
    assert patient.get_many(["f", "none"]) == {}


def test_lifetimes_are_kept_by_redis(patient, admin):
    patient.set("a", "x", 60)
    patient.set("for ever", "x", None)
    patient.add("n", 1, 30)
    assert 59_000 < admin.pttl(":1:a") <= 60_000
    assert admin.pttl(":1:for ever") == -1
    assert 29_000 < admin.pttl(":1:n") <= 30_000
    patient.touch("a", None)
    assert admin.pttl(":1:a") == -1


def test_redis_is_the_truth_while_it_answers(patient, admin):
    patient.set("a", "mine")
    admin.delete(":1:a")
    assert patient.get("a") is None


def test_a_value_that_nobody_can_read_is_a_miss_and_goes(patient, admin):
    patient.set("a", "fine")
    stamp = admin.get(lua_scripts.GENERATION_KEY)
    poison = [b"\x80\x04\x95", b"[1", b"", b"5" * 50, stamp + b"::{", stamp + b"::\xff"]
    poison.append(stamp + b"::" + b"[" * 100_000)
    for number, value in enumerate(poison):
        admin.set(f":1:p{number}", value)
    keys = [f"p{number}" for number in range(len(poison))]
    assert patient.get_many([*keys, "a"]) == {"a": "fine"}
    assert admin.keys(":1:p*") == []
    assert patient.stats()["poisoned"] == len(poison)
    assert not patient.is_degraded


def test_a_key_of_another_type_is_a_miss_and_may_be_overwritten(patient, admin):
    for key in "abc":
        admin.rpush(f":1:{key}", "x")
    assert patient.get("a") is None
    assert patient.add("a", "new")
    patient.set("b", "new")
    assert patient.get_many("ab") == {"a": "new", "b": "new"}
    patient.add("c", 1)
    assert patient.incr("c") == 2
    assert patient.stats()["errors"] == 0


def test_odd_keys_are_keys(patient):
    for key in ["ü", "a b", "\ud800", "x" * 500, "line\n"]:
        patient.set(key, key.encode(errors="replace").decode())
    assert patient.get("ü") == "ü"
    assert patient.get("\ud800") == "?"
    assert patient.stats()["errors"] == 0


# --- counters


def test_fifty_threads_count_to_fifty_in_redis(redis_own):
    url = redis_own.url()
    patient = {"OPTIONS": {"BUDGET_MS": 5_000}}
    GuardedCache(url, patient).add("n", 0, 60)
    together = threading.Barrier(50)

    def count():
        cache = GuardedCache(url, patient)
        together.wait()
        cache.incr("n")

    run_threads(count)
    assert GuardedCache(url, patient).get("n") == 50
    assert GuardedCache(url, patient).stats()["errors"] == 0


def test_fifty_threads_count_to_fifty_in_memory(cache, redis_own):
    redis_own.kill()
    together = threading.Barrier(50)
    cache.add("n", 0, 60)

    def count():
        together.wait()
        cache.incr("n")

    run_threads(count)
    assert cache.get("n") == 50


def run_threads(target):
    threads = [threading.Thread(target=target) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_counting_keeps_the_lifetime(patient, admin):
    patient.add("n", 1, 30)
    assert patient.incr("n", 4) == 5
    assert patient.decr("n") == 4
    assert 29_000 < admin.pttl(":1:n") <= 30_000
    assert admin.get(":1:n") == b"4"
    patient.set("m", 1, 30)
    assert patient.incr("m") == 2
    assert 29_000 < admin.pttl(":1:m") <= 30_000


def test_a_counter_that_vanishes_after_add_is_begun_anew(patient, admin):
    patient.add("n", 1, 30)
    assert not patient.add("n", 1, 30)
    admin.delete(":1:n")
    assert patient.incr("n") == 1
    assert 29_000 < admin.pttl(":1:n") <= 30_000


def test_what_is_no_number_does_not_count(patient, memory_only):
    for one in (patient, memory_only):
        one.set("a", "text")
        for key in ("a", "missing"):
            with pytest.raises(ValueError, match=key):
                one.incr(key)


def test_a_counter_outlives_an_outage_and_goes_on_in_memory(cache, redis_own):
    cache.add("n", 5, 60)
    redis_own.pause()
    assert cache.incr("n") == 6
    assert cache.incr("n") == 7
    redis_own.resume()
    wait_for(lambda: not cache.is_degraded)
    assert cache.get("n") >= 5


# --- whatever Redis does


@pytest.mark.parametrize("fault", ["kill", "pause", "stop"])
def test_no_call_raises_or_waits_when_redis_is_away(cache, redis_own, breaker, fault):
    cache.set_many({"a": 1, "b": 2})
    getattr(redis_own, fault)()
    assert_bounded(cache, breaker)


@pytest.mark.parametrize("handle", [garbage, wrong_shape, drip, silence, hang_up])
def test_no_call_raises_or_waits_whatever_is_answered(breaker, handle):
    with answering(handle) as url:
        assert_bounded(GuardedCache(url, {}), breaker)


def test_no_call_raises_or_waits_when_nothing_takes_connections(breaker):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        url = f"redis://127.0.0.1:{address[1]}/0"
        assert_bounded(GuardedCache(url, {}), breaker)
        for client in waiting:
            client.close()


def test_a_name_that_cannot_be_resolved_is_not_waited_for(breaker, monkeypatch):
    asked = threading.Event()
    real = socket.getaddrinfo

    def hang(host, *args, **kwargs):
        if kwargs.get("flags") or host != "cache.example":
            return real(host, *args, **kwargs)
        asked.wait(30)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert_bounded(GuardedCache("redis://cache.example:6379/0", {}), breaker)
    finally:
        asked.set()


def test_without_room_in_redis_no_old_value_stays(patient, admin):
    patient.set_many({"a": "old", "b": "stays"})
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)
    patient.set("a", "new")
    assert patient.get("a") is None
    assert patient.get("b") == "stays"
    for name in OPERATIONS.keys() - {"incr_version", "decr_version"}:
        OPERATIONS[name](patient)
    with pytest.raises(ValueError, match="not found"):
        patient.incr_version("a")
    assert patient.add("limit", 1, 60)
    assert [patient.incr("limit"), patient.incr("limit")] == [2, 3]
    assert breakers.cache.state is State.CLOSED
    assert patient.stats()["errors"] > 0


def test_a_read_only_redis_serves_nothing_that_was_changed(patient, admin):
    patient.set_many({"a": "old", "b": "old"})
    admin.replicaof("127.0.0.1", "1")
    patient.set("a", "new")
    patient.delete("b")
    assert patient.get("a") == "new"
    assert patient.get("b") is None
    for operation in OPERATIONS.values():
        operation(patient)
    assert patient.is_degraded
    admin.replicaof("no", "one")
    wait_for(lambda: not patient.is_degraded)
    assert patient.get("b") is None


def test_the_breaker_opens_with_the_third_call_and_costs_little(cache, redis_own):
    cache.set("a", 1)
    redis_own.pause()
    for _ in range(3):
        cache.get("a")
    assert cache.is_degraded

    def slowest():
        return max(timed(one, cache) for one in OPERATIONS.values())

    assert min(slowest() for _ in range(3)) < 0.001


def test_without_the_breaker_each_call_tries(redis_own, settings):
    settings.CACHE_BREAKER = False
    cache = GuardedCache(redis_own.url(), {})
    redis_own.kill()
    for _ in range(5):
        cache.get("a")
    redis_own.start()
    cache.set("a", 1)
    assert not cache.is_degraded


# --- while it is away, and afterwards


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_memory_takes_over_and_redis_again_within_two_seconds(cache, redis_own, fault):
    cache.set("written", "before", 60)
    cache.set("short", "x", 0.3)
    getattr(redis_own, fault)()
    assert cache.get("written") == "before"
    cache.set("written", "during")
    assert cache.get("written") == "during"
    assert cache.get_or_set("new", lambda: [1]) == [1]
    cache.delete("new")
    assert cache.get("new") is None
    wait_for(lambda: cache.get("short") is None, COPY_S / 2)
    redis_own.start() if fault == "kill" else redis_own.resume()
    started = time.monotonic()
    wait_for(lambda: not cache.is_degraded)
    assert time.monotonic() - started < 2 + BUSY_S
    assert cache.get("written") in (None, "during")
    cache.set("written", "after")
    assert cache.get("written") == "after"


def test_it_heals_though_nobody_calls(cache, redis_own):
    cache.set("a", 1)
    redis_own.pause()
    for _ in range(3):
        cache.get("a")
    redis_own.resume()
    wait_for(lambda: not cache._remote.is_degraded)


def test_what_others_read_copies_of_ends_when_it_would_have(cache, redis_own):
    GuardedCache(redis_own.url(), {"OPTIONS": {"BUDGET_MS": 51}}).set("a", "x", 2)
    assert cache.get("a") == "x"
    redis_own.pause()
    assert cache.get("a") == "x"
    wait_for(lambda: cache.get("a") is None, COPY_S / 2)


@contextmanager
def peer(server):
    """Another process with the same cache; call it with an expression."""
    environment = os.environ | {"REDIS_URL": server.url()}
    environment["DJANGO_SETTINGS_MODULE"] = "resilient_site.settings"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.resilient_site.resilience.cache_peer"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def evaluate(expression):
        process.stdin.write(expression + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    evaluate.process = process
    with process:
        yield evaluate
        process.kill()


def test_what_was_changed_meanwhile_is_not_served_to_others(cache, redis_own):
    cache.set_many({"a": "old", "b": "old", "c": "old"}, None)
    with peer(redis_own) as other:
        assert other("cache.get('a')") == "old"
        redis_own.pause()
        cache.set("a", "new", None)
        cache.delete("b")
        redis_own.resume()
        wait_for(lambda: not cache.is_degraded)
        wait_for(lambda: not other("cache.is_degraded"))
        assert other("[cache.get('a'), cache.get('b')]") == [None, None]
        assert cache.get_many("ab") == {}


def test_what_a_process_changed_that_died_is_not_served(cache, redis_own):
    cache.set("a", "old", None)
    with peer(redis_own) as other:
        assert other("cache.get('a')") == "old"
        redis_own.pause()
        assert other("cache.set('a', 'new', None)") is None
        other.process.kill()
        for _ in range(3):
            cache.get("other")
    redis_own.resume()
    wait_for(lambda: not cache.is_degraded)
    assert cache.get("a") is None


def test_a_write_that_redis_sees_late_does_nothing(cache, redis_own, admin):
    cache.set("a", "older")
    redis_own.pause()
    cache.set("a", "old")  # given up here, but on its way
    cache.set("a", "new")
    for _ in range(3):
        cache.get("b")
    redis_own.resume()
    wait_for(lambda: not cache.is_degraded)
    assert cache.get("a") is None


def test_a_write_in_an_ended_generation_is_refused_and_done_again(patient, admin):
    patient.set("a", "x")
    admin.set(lua_scripts.GENERATION_KEY, "0" * 16)
    assert patient._remote._generation != b"0" * 16
    patient.set("a", "y")
    assert patient.get("a") == "y"


def test_values_do_not_count_when_their_generation_was_evicted(patient, admin):
    patient.set("a", "x")
    admin.delete(lua_scripts.GENERATION_KEY)
    assert patient.get("a") is None
    patient.set("b", "y")
    assert patient.get_many("ab") == {"b": "y"}
    assert patient.add("a", "z")


def test_one_lost_write_costs_no_other_value(cache, redis_own, admin):
    cache.set_many({"a": "old", "b": "stays"})
    for _ in range(10):
        cache.get("b")
    redis_own.pause()
    cache.set("a", "new")
    assert breakers.cache.state is State.CLOSED
    redis_own.resume()
    assert cache.get("a") in ("new", None)
    wait_for(lambda: not cache.is_degraded)
    assert cache.get_many("ab") == {"b": "stays"}


def test_a_clear_during_an_outage_is_done_after_it(cache, redis_own):
    cache.set("a", "old")
    cache.add("n", 5)
    redis_own.pause()
    cache.clear()
    redis_own.resume()
    wait_for(lambda: not cache.is_degraded)
    assert cache.get_many("an") == {}


def test_more_changes_than_the_journal_holds_invalidate_all(
    cache, redis_own, monkeypatch
):
    monkeypatch.setattr("resilient_site.cache.journal.MAX_KEYS", 10)
    keys = [f"k{number}" for number in range(20)]
    cache.set_many(dict.fromkeys(keys, "old"))
    redis_own.pause()
    for key in keys:
        cache.delete(key)
    redis_own.resume()
    wait_for(lambda: not cache.is_degraded)
    assert cache.get_many(keys) == {}


# --- asyncio


def test_every_call_has_its_coroutine(patient, redis_own):
    async def use():
        await patient.aset("a", 1)
        assert await patient.aget("a") == 1
        assert await patient.aadd("b", "x")
        assert await patient.ahas_key("b")
        assert await patient.aget_or_set("c", lambda: [3]) == [3]
        assert await patient.aget_or_set("c", [4]) == [3]
        assert await patient.aincr("a") == 2
        assert await patient.adecr("a") == 1
        assert await patient.atouch("b", 60)
        await patient.aset_many({"d": 1})
        assert await patient.aget_many(["a", "d"]) == {"a": 1, "d": 1}
        assert await patient.adelete("d")
        await patient.adelete_many(["a"])
        assert await patient.aincr_version("b") == 2
        await patient.aclear()
        assert await patient.aget("b", version=2) is None

    asyncio.run(use())
    redis_own.kill()
    asyncio.run(use())


def test_the_one_thread_for_sensitive_calls_does_not_wait_for_redis(cache, redis_own):
    redis_own.pause()

    async def use():
        calls = [asyncio.create_task(cache.aget(str(n))) for n in range(10)]
        await asyncio.sleep(0)
        started = time.monotonic()
        await sync_to_async(int)()
        waited = time.monotonic() - started
        await asyncio.gather(*calls)
        return waited

    assert asyncio.run(use()) < BUDGET_S


# --- processes, pools, secrets


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_uses_and_heals_it(cache, redis_own):
    cache.set("a", "before")
    redis_own.pause()
    for _ in range(3):
        cache.get("a")
    cache.set("b", "x")
    with cache._remote._lock, cache._memory._lock:
        child = os.fork()
        if not child:
            # Nothing of pytest may run here.
            status = 1
            try:
                cache.set("c", "y")
                os.kill(redis_own.process.pid, signal.SIGCONT)
                wait_for(lambda: not cache.is_degraded)
                cache.set("c", "z")
                status = 0 if cache.get("c") == "z" else 2
            finally:
                os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    wait_for(lambda: not cache.is_degraded)
    assert cache.get("c") == "z"


def test_each_set_of_options_has_its_own_connections(redis_server):
    caches = [
        GuardedCache(redis_server.url(), {"OPTIONS": {"BUDGET_MS": budget}})
        for budget in (50, 5_000)
    ]
    pools = []
    for cache in caches:
        cache.get("a")
        pools.append(cache._remote._client.connection_pool)
    timeouts = [pool.connection_kwargs["socket_timeout"] for pool in pools]
    assert timeouts == [0.05, 5]


def test_without_redis_memory_is_a_cache_of_django(memory_only):
    test_it_is_a_cache_of_django(memory_only)
    memory_only.add("n", 1, 60)
    assert memory_only.incr("n") == 2
    assert not memory_only.is_degraded
    stats = memory_only.stats()
    assert stats["fallbacks"] == stats["errors"] == 0
    assert stats["memory_entries"] == 1
    assert stats["memory_bytes"] > 0
