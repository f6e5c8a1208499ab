"""No call of the cache raises or waits long, and nothing stale comes back."""

import json
import multiprocessing
import socket
import sys
import threading
from contextlib import closing, contextmanager, suppress

import pytest
import redis
from django.core.cache import caches
from django.test import override_settings

from resilient_site import settings as as_started
from resilient_site.cache import backend
from resilient_site.cache.backend import GENERATION_KEY, ResilientRedisCache
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State
from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.resilient_site.cache.nonsense import answering, garbage, wrong_shape

PATIENT = {"OPTIONS": {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5}}

pytestmark = [pytest.mark.usefixtures("breaker"), pytest.mark.once]


def connect(url, kind=ResilientRedisCache, **options):
    return kind(url, {"OPTIONS": options})


@pytest.fixture
def cache(redis_own):
    return connect(redis_own.url())


@pytest.fixture
def patient(redis_own):
    """A cache whose timeouts a busy machine does not reach."""
    return ResilientRedisCache(redis_own.url(), PATIENT)


@pytest.fixture
def admin(redis_own):
    """A client of Redis that knows nothing of the cache."""
    with redis.Redis(port=redis_own.port, socket_timeout=5) as client:
        yield client


def recover(cache):
    def is_recovered():
        cache.ping()
        return not cache.is_degraded

    wait_for(is_recovered)


def open_breaker(cache):
    for _ in range(3):
        cache.get("other")
    assert breakers.cache.state is State.OPEN


OPERATIONS = {
    "get": lambda c: c.get("a"),
    "set": lambda c: c.set("a", 1),
    "set nx": lambda c: c.set("a", 1, nx=True),
    "add": lambda c: c.add("a", [1]),
    "touch": lambda c: c.touch("a", 60),
    "has_key": lambda c: c.has_key("a"),
    "in": lambda c: "a" in c,
    "get_many": lambda c: c.get_many(["a", "b"]),
    "set_many": lambda c: c.set_many({"a": 1, "b": 2}),
    "get_or_set": lambda c: c.get_or_set("new", lambda: 1),
    "delete": lambda c: c.delete("a"),
    "delete_many": lambda c: c.delete_many(["a", "b"]),
    "clear": lambda c: c.clear(),
    "incr": lambda c: c.incr("m"),
    "decr": lambda c: c.decr("o"),
    "incr_version": lambda c: c.incr_version("v"),
}


def assert_bounded(cache):
    """Each call meets the fault itself; without a timeout it would never return."""
    for name, operation in OPERATIONS.items():
        breakers.cache.override(State.CLOSED)
        # What is not there cannot be counted: so Django has it.
        with suppress(*[ValueError] if "cr" in name else []):
            operation(cache)


def test_cache_is_used_again_after_the_network_has_lost_its_connections(redis_own):
    with closing(Proxy(redis_own.port)) as network:
        cache = connect(f"redis://127.0.0.1:{network.port}/0", **PATIENT["OPTIONS"])
        cache.set("a", 1)
        network.lose()
        recover(cache)
        wait_for(lambda: cache.set("a", 2) and not cache.is_degraded)
        assert cache.get("a") == 2


# --- a machine under a full load


@pytest.mark.parametrize("operation", ["get", "set_many", "incr", "ping"])
def test_time_outs_of_a_starved_machine_open_no_breaker_for_long(
    redis_own, monkeypatch, caplog, operation
):
    with closing(Proxy(redis_own.port)) as proxy:
        cache = connect(f"redis://127.0.0.1:{proxy.port}/0")
        wait_for(lambda: cache.set("m", 1) and not cache.is_degraded)
        caplog.clear()

        def operate(cache):
            with suppress(ValueError):  # what is not there cannot be counted
                OPERATIONS.get(operation, ResilientRedisCache.ping)(cache)

        proxy.hold()
        monkeypatch.setattr(backend, "is_starved", lambda: True)
        for _ in range(backend.MAX_INCONCLUSIVE):
            operate(cache)
        assert breakers.cache.state is State.CLOSED
        assert caplog.messages == []
        for _ in range(3):
            operate(cache)
        assert breakers.cache.state is State.OPEN
        assert len(caplog.messages) == 1
        proxy.let_go()
        recover(cache)


def test_threads_that_wait_for_each_other_are_starved(monkeypatch):
    before, ended = sys.getswitchinterval(), threading.Event()

    def compute():
        while not ended.is_set():
            sum(range(1_000))

    thread = threading.Thread(target=compute)
    monkeypatch.undo()  # what the fixture has set
    sys.setswitchinterval(0.1)
    try:
        thread.start()
        wait_for(backend.is_starved)
    finally:
        ended.set()
        sys.setswitchinterval(before)
        thread.join()
    wait_for(lambda: not backend.is_starved())


# --- while Redis answers


@pytest.mark.parametrize("where", ["redis", "memory"])
def test_cache_has_the_interface_of_django(redis_own, patient, where):
    cache = patient
    if where == "memory":
        breakers.cache.override(State.OPEN)
    cache.set("a", {"x": [1, "ü", None]}, 60)
    assert cache.get("a") == {"x": [1, "ü", None]}
    assert cache.get("missing", "default") == "default"
    assert not cache.add("a", 1)
    assert cache.add("b", "new")
    assert cache.touch("b", 100)
    assert not cache.touch("missing")
    assert cache.get_many(key for key in "abc").keys() == {"a", "b"}
    assert cache.set_many({"d": 1, "e": 2.5}) == []
    assert (cache.get("d"), cache.get("e")) == (1, 2.5)
    assert (cache.incr("d"), cache.decr("d", 2)) == (2, 0)
    assert cache.delete("d")
    assert not cache.delete("d")
    cache.delete_many(key for key in "eb")
    assert "e" not in cache
    assert cache.get_or_set("f", lambda: "made") == "made"
    assert cache.get_or_set("f", "other") == "made"
    cache.set("none", None)
    assert cache.has_key("none")
    assert cache.incr_version("f") == 2
    assert cache.get("f", version=2) == "made"
    cache.set("a", 1, 0)
    assert "a" not in cache
    cache.clear()
    assert cache.get_many(["f", "none"]) == {}
    for key in ("text", "missing"):
        cache.set("text", "text")
        with pytest.raises((ValueError, TypeError)):
            cache.incr(key)


def test_cache_never_pickles(patient, admin):
    patient.set("a", {"x": 1})
    [value] = [admin.get(key) for key in admin.keys("*:a")]
    assert json.loads(value) == {"x": 1}
    with pytest.raises(TypeError, match="not JSON"):
        patient.set("a", object())
    assert breakers.cache.state is State.CLOSED


def test_cache_does_not_answer_from_memory_while_redis_answers(patient, admin):
    patient.set("a", "mine")
    admin.delete(*admin.keys("*:a"))
    assert patient.get("a") is None


@pytest.mark.parametrize("poison", [b"\x80\x04\x95", b"[1", b"", b"[" * 100_000])
def test_cache_treats_a_value_it_cannot_decode_as_a_miss(patient, admin, poison):
    patient.set_many({"a": "old", "b": "fine"})
    [name] = admin.keys("*:a")
    admin.set(name, poison)
    assert patient.get("a", "default") == "default"
    assert patient.get_many(["a", "b"]) == {"b": "fine"}
    assert not admin.exists(name)
    assert not patient.is_degraded


def test_cache_takes_the_options_of_django_redis(redis_own, admin):
    cache = connect(
        redis_own.url(),
        **PATIENT["OPTIONS"],
        SERIALIZER="django_redis.serializers.json.JSONSerializer",
        COMPRESSOR="django_redis.compressors.zlib.ZlibCompressor",
        CONNECTION_POOL_KWARGS={"max_connections": 7},
    )
    cache.set("a", "x" * 1_000)
    assert cache.get("a") == "x" * 1_000
    assert admin.strlen(admin.keys("*:a")[0]) < 100
    assert cache.ttl("a") > 0
    assert list(cache.iter_keys("*")) == ["a"]
    assert cache.client.get_client().connection_pool.max_connections == 7


# --- whatever Redis does


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_no_call_raises_or_waits_long_when_redis_fails(cache, redis_own, fault):
    cache.set_many({"a": 1, "b": 2})
    getattr(redis_own, fault)()
    assert_bounded(cache)


@pytest.mark.parametrize("handle", [garbage, wrong_shape])
def test_no_call_raises_or_waits_long_when_replies_are_nonsense(handle):
    with answering(handle) as url:
        assert_bounded(connect(url))


def test_no_call_raises_or_waits_long_when_redis_is_slow(redis_own):
    proxy = Proxy(redis_own.port)
    proxy.delay_s = 0.2
    try:
        cache = connect(f"redis://127.0.0.1:{proxy.port}/0")
        assert_bounded(cache)
        breakers.cache.override(None)
        open_breaker(cache)
    finally:
        proxy.close()


def test_no_call_raises_or_waits_long_when_connects_are_not_accepted():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        assert_bounded(connect(f"redis://127.0.0.1:{full.getsockname()[1]}/0"))
        for client in waiting:
            client.close()


def test_no_call_raises_when_the_password_is_wrong(redis_own, admin):
    admin.config_set("requirepass", "secret")
    cache = connect(f"redis://:wrong@127.0.0.1:{redis_own.port}/0")
    assert_bounded(cache)
    breakers.cache.override(None)
    open_breaker(cache)
    assert "wrong@" not in breakers.cache.last_error


def test_a_full_redis_serves_nothing_that_was_changed(patient, admin):
    patient.set_many({"a": "old", "b": "stays"})
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)
    for _ in range(5):  # more than open the breaker
        patient.set("a", "new")
        assert patient.get("a") is None
        assert patient.get("b") == "stays"
    assert breakers.cache.state is State.CLOSED
    assert_bounded(patient)


def test_a_read_only_redis_serves_nothing_that_was_changed(cache, admin):
    cache.set_many({"a": "old", "b": "old"})
    admin.replicaof("127.0.0.1", "1")
    cache.set("a", "new")
    cache.delete("b")
    assert cache.get_many(["a", "b"]) == {"a": "new"}
    assert cache.is_degraded
    admin.replicaof("no", "one")
    recover(cache)
    assert cache.get_many(["a", "b"]) == {}


# --- recovery


def test_memory_stands_in_during_an_outage_and_never_after(cache, patient, redis_own):
    patient.set("written", "before", 60)
    redis_own.pause()
    open_breaker(cache)
    assert cache.get("written") is None
    cache.set("written", "during")
    assert cache.get("written") == "during"
    cache.delete("written")
    cache.set("other", "during")
    cache.clear()
    redis_own.resume()
    recover(cache)
    assert cache.get_many(["written", "other"]) == {}
    patient.set("written", "after")
    redis_own.pause()
    assert cache.get("written") is None


@contextmanager
def peer(server):
    """Another process with the same cache: call it with a method and its arguments."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()

    def serve():
        backend.server_state.cache_clear()
        cache = connect(server.url())
        while True:
            method, *args = there.recv()
            there.send(getattr(cache, method)(*args))

    def call(*request):
        here.send(request)
        return here.recv()

    call.process = fork.Process(target=serve)
    call.process.start()
    yield call
    call.process.kill()
    call.process.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_any_process_changed_in_an_outage_does_not_come_back(
    cache, patient, redis_own
):
    patient.set_many({"a": "old", "b": "old", "c": "old"}, None)
    with peer(redis_own) as other:
        wait_for(lambda: len(other("get_many", ["a", "b", "c"])) == 3)
        redis_own.pause()
        cache.set("a", "new", None)
        cache.delete("b")
        redis_own.resume()
        recover(cache)
        wait_for(lambda: other("get_many", ["a", "b"]) == {})
        # And where the process that changed it is killed before it can say so.
        patient.set("c", "old", None)
        wait_for(lambda: other("get", "c") == "old")
        redis_own.pause()
        assert other("set", "c", "new", None) is None
        other.process.kill()
        open_breaker(cache)
        cache.get("c")
    redis_own.resume()
    recover(cache)
    assert cache.get("c") is None


def test_values_do_not_count_when_the_generation_was_evicted(patient, admin):
    patient.set("a", "x")
    admin.set(str(GENERATION_KEY), b"not JSON")
    patient.ping()
    assert patient.get("a") is None
    patient.set("b", "y")
    admin.delete(str(GENERATION_KEY))
    patient.ping()
    assert patient.get("b") is None
    patient.set("b", "y")
    assert patient.get("b") == "y"


@pytest.mark.parametrize(
    ("write", "left"),
    [
        (lambda cache: cache.set("a", "new"), {"b": "old", "c": "old"}),
        (lambda cache: cache.delete_many("ab"), {}),  # more than are listed
        (lambda cache: cache.clear(), {}),
    ],
    ids=["one", "many", "clear"],
)
def test_lost_write_voids_what_it_changed(
    cache, patient, redis_own, monkeypatch, write, left
):
    monkeypatch.setattr(backend, "MAX_MISSED", 1)
    patient.set_many(dict.fromkeys("abc", "old"))
    redis_own.pause()
    write(cache)
    assert cache.is_degraded
    redis_own.resume()
    recover(patient)  # it knows what `cache` knows of Redis
    assert patient.get_many("abc") == left


def test_processes_see_each_others_sign_outs_after_a_timeout(redis_own, monkeypatch):
    """Each takes up a new generation only after a time: one timeout must make none."""
    monkeypatch.setattr(backend, "REFRESH_S", 1_000)
    url, patience = redis_own.url(), PATIENT["OPTIONS"]

    def process():
        """Return its cache, and the same one with a short timeout."""
        backend.server_state.cache_clear()
        return connect(url, MEMORY_BYTES=0, **patience), connect(url, MEMORY_BYTES=0)

    (here, hasty_here), (there, hasty_there) = process(), process()
    for first, hasty, second in (
        (here, hasty_here, there),
        (there, hasty_there, here),
    ):
        first.set("session", "signed in")
        assert second.get("session") == "signed in"
        redis_own.pause()
        hasty.delete("session")
        redis_own.resume()
        recover(first)
        assert second.get("session") is None
        first.set("session", "signed in again")
        second.delete("session")
        assert first.get("session") is None


def test_lost_write_of_a_counter_voids_nothing(redis_own):
    counters = connect(redis_own.url(), USES_GENERATION=False)
    patience = PATIENT["OPTIONS"]
    connect(redis_own.url(), USES_GENERATION=False, **patience).set("a", 1)
    redis_own.pause()
    counters.set("a", 2)
    redis_own.resume()
    assert not counters.is_degraded
    assert wait_for(lambda: counters.get("a")) in (1, 2)


def test_all_aliases_share_one_redis_and_one_breaker(redis_own):
    with override_settings(CACHES=as_started.caches(redis_own.url())):
        redis_own.pause()
        open_breaker(caches["default"])
        assert all(caches[alias].is_degraded for alias in as_started.CACHES)
        redis_own.resume()
        recover(caches["sessions"])
        assert not caches["default"].is_degraded
