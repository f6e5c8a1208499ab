"""The stale store: faults of disk and Redis cost no more than its entries."""

import asyncio
import errno
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count

import pytest
import time_machine
from django.http import HttpResponse
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge.cache import cached_response
from resilient_site.edge.cache import store as module
from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import (
    EVERYTHING,
    VOID,
    Mark,
    invalidations,
    mark,
    now,
    subscriber,
)
from resilient_site.edge.cache.keys import Key, PrivateKey
from resilient_site.edge.cache.store import (
    PRIVATE_SHARE,
    SAMPLE_EVERY,
    SLOT_BYTES,
    ResponseCache,
    ResponseStore,
    response_store,
)
from resilient_site.resilience.cache_control import STALE_IF_ERROR_S
from tests.private_server import wait_for
from tests.resilient_site.edge.clients import get, run
from tests.resilient_site.edge.views import now as view
from tests.running import ROOT

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("listening")]

MAX_BYTES = 1024 * 1024
REDIS_BYTES = 16 * SLOT_BYTES


def make_store(folder, redis_bytes=REDIS_BYTES, disk_bytes=MAX_BYTES) -> ResponseStore:
    """A store that holds nothing in memory: what it finds is on disk or in Redis."""
    return ResponseStore(folder, 0, redis_bytes, disk_bytes)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def shared(name: str) -> Key:
    return Key(b"localhost", "https", f"/{name}", "", ())


KEY, OTHER = shared("key"), shared("other")
PRIVATE = PrivateKey(("token",), "/key", b"", ())


def make_response(body: bytes = b"body", **changes) -> CachedResponse:
    headers = [(b"content-type", b"text/plain"), (b"etag", b'"\xe4"')]
    of_nothing = mark(now(), [])
    return replace(CachedResponse(headers, body, of_nothing, 10, 60, 86400), **changes)


def put(
    store: ResponseStore, key: Key = KEY, response: CachedResponse | None = None
) -> None:
    store.put(key, response or make_response())
    store.flush().result()


def body_in(store: ResponseStore, key: Key | PrivateKey = KEY) -> bytes | None:
    found = asyncio.run(store.find_stale(key))
    return found.body if found else None


def database(store: ResponseStore) -> sqlite3.Connection:
    return closing(sqlite3.connect(store.folder / "cache.db", isolation_level=None))


def stored_keys(store: ResponseStore) -> set[str]:
    with database(store) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM Cache")}


# --- after an older dump was put back


def usable(store: ResponseStore, key: Key | PrivateKey = KEY) -> bool:
    found = asyncio.run(store.find_stale(key))
    return found is not None and found.is_usable_if_error()


def test_nothing_stored_before_is_shown_after_a_void(tmp_path, server):
    store = ResponseStore(tmp_path / "store", MAX_BYTES, REDIS_BYTES, MAX_BYTES)
    elsewhere = make_store(tmp_path / "elsewhere")  # a machine that was off
    before = make_response()
    store.put(PRIVATE, before)
    put(store, response=before)
    assert usable(store)
    assert usable(store, PRIVATE)
    store.void()

    assert not len(store.memory)
    assert not store.folder.exists()
    assert not usable(store)
    assert not server.keys("*response*")
    for late in (store, elsewhere):  # read before, stored afterwards
        late.put(PRIVATE, before)
        put(late, response=before)
        assert not usable(late)
        assert not usable(late, PRIVATE)
    put(store)
    assert usable(store)


def test_pending_response_is_not_written_after_a_void(store, monkeypatch):
    store.put(KEY, make_response())
    invalidations.record([VOID])  # by another process
    store.flush().result()
    assert stored_keys(store) == set()


def test_new_epoch_voids_what_is_stored(store):
    put(store)
    for process in (store, store, make_store(store.folder)):
        process.follow_epoch("first")
        process.follow_epoch("")  # it could not be read
        assert usable(process)
    # The machine was off meanwhile.
    make_store(store.folder).follow_epoch("second")
    assert not usable(store)
    put(store)
    make_store(store.folder).follow_epoch("second")
    assert usable(store)
    store.follow_epoch("second")  # what it stored since may be of the first
    assert not usable(store)


def test_responses_of_a_public_site_end_with_it(store, settings):
    store.follow_epoch("first")
    put(store)
    settings.PUBLIC_READ = False
    make_store(store.folder).follow_epoch("first")
    assert not usable(store)
    assert not stored_keys(store)


# --- on disk


def test_response_comes_back_as_it_was(store):
    original = make_response()
    put(store, response=original)
    found = asyncio.run(store.find_stale(KEY))
    assert abs(found.age - original.age) < 5
    assert found == replace(original, stored=found.stored)
    assert body_in(store, OTHER) is None
    assert store.folder.stat().st_mode & 0o077 == 0  # its owner's alone


def test_other_processes_share_the_store(store):
    put(store)
    other = make_store(store.folder)
    assert body_in(other) == b"body"
    put(other, response=make_response(b"newer"))
    assert body_in(store) == b"newer"
    assert (store.disk_usage()[0], store.is_empty()) == (1, False)


@pytest.mark.parametrize("key", [KEY, PRIVATE])
def test_pending_response_and_deletion_count_at_once(store, key):
    store.put(key, make_response())
    assert body_in(store, key) == b"body"
    store.flush().result()
    store.delete(key)
    assert body_in(store, key) is None


@pytest.mark.parametrize("key", [KEY, PRIVATE])
@run
async def test_deletion_holds_while_the_key_is_looked_up(store, key):
    store.put(key, make_response())
    store.flush().result()
    look_up = asyncio.ensure_future(store.find_stale(key))
    await asyncio.sleep(0)  # it has begun
    store.delete(key)
    assert await look_up is None
    assert store._pending[key].response is None


def _overwrite(path):
    path.write_bytes(b"this is no database" * 1_000)


def _scramble(path):
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xaa" * (len(data) - 4096))


@contextmanager
def locked(store):
    """Disk that does not answer: another process holds the lock of the database."""
    store.folder.mkdir(exist_ok=True)
    with database(store) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.parametrize("key", [KEY, PRIVATE])
def test_deletion_holds_while_it_is_written(store, key, monkeypatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 90)
    store.put(key, make_response())
    store.flush().result()
    with locked(store):
        store.delete(key)
        writing = store.flush()
        assert body_in(store, key) is None
        assert not writing.done()
    writing.result()
    assert body_in(store, key) is None
    assert stored_keys(store) == set()


@pytest.mark.parametrize("is_too_much", [False, True])
def test_what_is_for_a_locked_disk_waits(store, monkeypatch, is_too_much):
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.01)
    room = 3_000 if is_too_much else 10_000
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", room)
    for key in (PRIVATE, OTHER):
        store.put(key, make_response())
    store.flush().result()
    with locked(store):
        store.delete(OTHER)
        store.put(PRIVATE, make_response(b"new"))
        store.flush().result()
        assert body_in(store, PRIVATE) == b"new"
        store.put(KEY, make_response(os.urandom(1_000)))
        store.flush().result()
        assert body_in(store, OTHER) is None
    store.flush().result()
    assert not store._writing
    left = {PRIVATE, OTHER} if is_too_much else {PRIVATE, KEY}
    assert stored_keys(store) == {repr(key) for key in left}


def test_redis_does_not_keep_a_response_from_the_disk(store, monkeypatch):
    def hang(responses):
        assert body_in(store) == b"body"
        raise TimeoutError

    monkeypatch.setattr(type(store), "_redis", object())
    monkeypatch.setattr(store, "_write_redis", hang)
    store.put(KEY, make_response())
    with pytest.raises(TimeoutError):
        store.flush().result()
    assert stored_keys(store) == {repr(KEY)}


DAMAGE = {
    "overwritten": _overwrite,
    "pages": _scramble,
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_database_is_replaced(store, damage):
    for n in range(50):
        store.put(shared(str(n)), make_response(os.urandom(2_000)))
    store.flush().result()
    store._writer.submit(store._opened[1].close).result()
    for suffix in ("-wal", "-shm"):
        (store.folder / f"cache.db{suffix}").unlink(missing_ok=True)
    damage(store.folder / "cache.db")

    def is_stored():
        put(store)
        return body_in(store) == b"body"

    wait_for(is_stored)


def test_entries_that_are_not_of_the_store_are_not_read(store, tmp_path):
    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "unpickled"),)

    put(store)
    row = (pickle.dumps(Malice()), pickle.dumps("x"), "text", b"", b"[]\0", b"{}\0x")
    for mode in range(5):
        for value in row:
            with database(store) as connection:
                connection.execute(
                    "UPDATE Cache SET mode = ?, value = ?", [mode, value]
                )
            assert body_in(store) is None
    assert not (tmp_path / "unpickled").exists()


def test_body_that_changed_on_disk_is_not_shown():
    data = make_response().encode("key", 0)
    assert CachedResponse.decode("key", data, 0, 0).body == b"body"
    assert CachedResponse.decode("key", data[:-1] + b"x", 0, 0) is None
    assert CachedResponse.decode("other", data, 0, 0) is None


def test_size_is_bounded_and_the_oldest_responses_go_first(store):
    for n in range(100):
        store.put(shared(str(n)), make_response(os.urandom(20_000)))
        if n % 5 == 4:
            store.flush().result()
    left = stored_keys(store)
    assert repr(shared("99")) in left
    assert repr(shared("0")) not in left
    assert len(left) > 10
    assert (store.folder / "cache.db").stat().st_size < 1.3 * MAX_BYTES


def test_store_without_room_stores_nothing(tmp_path):
    off = make_store(tmp_path / "store", 0, 0)
    put(off)
    assert body_in(off) is None
    assert off.is_empty()
    assert not off.folder.exists()


def test_pending_responses_are_bounded_and_deletions_come_first(store):
    for n in range(3_000):
        store.put(shared(str(n)), make_response(b"x" * 20_000))
    assert store._pending_bytes <= module.MAX_PENDING_BYTES
    assert len(store._pending) < 1_000
    store.delete(KEY)
    assert store._pending[KEY].response is None


def test_full_disk_costs_only_what_was_to_be_stored(tmp_path):
    code = """
import asyncio, os, resource, sys
from pathlib import Path
sys.path.insert(0, "")
from tests.resilient_site.edge.test_store import *
from tests.resilient_site.edge.clients import ask
from resilient_site.edge import request_body
module.settings.LAST_KNOWN_TIMEOUT_S = 10
request_body.UNVERIFIED_BYTES = 10**8
store = make_store(Path(sys.argv[1]) / "store", 0, 10**8)
early, late = shared("early"), shared("late")
put(store, early)
assert invalidations.slots
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
put(store, OTHER, make_response(b"x" * 500_000))
assert body_in(store, early) == b"body"

async def send_bodies():
    # All but the last bytes fit, which Python has not written when all is received.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, hard))
    for length in (1_200_100, 3_000_000):
        pieces = [b"x" * 1_100_000] + [b"x" * 100] * ((length - 1_100_000) // 100)
        headers = [(b"content-length", b"%d" % length)]
        answer = await ask("/api/v1/items/", "POST", headers, pieces)
        assert (answer.status, answer.json()["code"]) == (503, "unavailable"), answer

asyncio.run(send_bodies())
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
put(store, late, make_response(b"late"))
assert body_in(store, late) == b"late", body_in(store, late)
assert body_in(store, early) == b"body"
print("passed", flush=True)
os._exit(0)
"""
    environment = os.environ | {"DATA_DIR": str(tmp_path), "PYTHONPATH": "."}
    environment["DJANGO_SETTINGS_MODULE"] = "resilient_site.settings"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=90, env=environment,
    )  # fmt: skip
    assert done.stdout.endswith("passed\n"), done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr + done.stdout


def test_disk_that_hangs_does_not_hold_the_process(tmp_path):
    code = """
import asyncio
from tests.resilient_site.edge.test_store import *
from resilient_site.edge import lifespan
module.LOCK_TIMEOUT_S = 600
lifespan.WRITE_TIMEOUT_S = 0.1
events = iter(["startup", "shutdown"])

async def receive():
    return {"type": f"lifespan.{next(events)}"}

async def send(message):
    print(message["type"], flush=True)

lock = locked(response_store)
lock.__enter__()  # to the end
assert body_in(response_store, PRIVATE) is None
response_store.put(PRIVATE, make_response())
asyncio.run(lifespan.run(receive, send))
"""
    environment = os.environ | {"DATA_DIR": str(tmp_path), "PYTHONPATH": "."}
    environment["DJANGO_SETTINGS_MODULE"] = "resilient_site.settings"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=90, env=environment,
    )  # fmt: skip
    assert done.stdout.endswith("lifespan.shutdown.complete\n"), done.stderr
    assert done.returncode == 0


def test_folder_that_cannot_be_made_does_no_harm(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    store = make_store(tmp_path / "file" / "store")
    for _ in range(3):
        put(store)
        assert body_in(store) is None
    assert caplog.text.count("is unavailable") == 1


@given(
    st.binary(),
    st.lists(st.tuples(st.binary(), st.binary())),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 65535)),
)
def test_any_response_survives_encoding(body, headers, limit, slots):
    made = CachedResponse(headers, body, Mark(now(), tuple(slots)), limit, limit, limit)
    found = CachedResponse.decode("key", made.encode("key", 0), 0, 0)
    assert (found.headers, found.body, found.mark) == (headers, body, made.mark)
    assert (found.fresh_s, found.stale_if_error_s) == (limit, limit)


# --- in Redis


@pytest.fixture
def elsewhere(server, store, tmp_path):
    """The store of another machine."""
    return make_store(tmp_path / "elsewhere")


@pytest.mark.parametrize("find", ["find_fresh_in_redis", "find_stale"])
def test_response_found_in_redis_is_kept_on_disk(store, elsewhere, server, find):
    """Else only this process could still show it when Redis has failed."""
    put(store)
    assert asyncio.run(getattr(elsewhere, find)(KEY)).body == b"body"
    server.flushdb()
    elsewhere.flush().result()
    assert stored_keys(elsewhere) == {repr(KEY)}
    assert server.keys("*response:*") == []  # as it may have been deleted there


def test_responses_found_in_redis_are_bounded_until_they_are_on_disk(
    store, elsewhere, monkeypatch
):
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 3 * make_response().size)
    keys = [shared(str(n)) for n in range(12)]
    for key in keys:
        put(store, key)
        assert asyncio.run(elsewhere.find_fresh_in_redis(key))
        elsewhere.memory.delete(key)
        assert body_in(elsewhere, key) == b"body"
    elsewhere.flush().result()
    assert 0 < len(stored_keys(elsewhere)) <= 3


@pytest.mark.parametrize("find", ["find_fresh_in_redis", "find_stale"])
@run
async def test_response_deleted_while_it_is_found_in_redis_is_not_stored(
    store, elsewhere, monkeypatch, settings, find
):
    await asyncio.to_thread(put, store)
    is_read, is_deleted = threading.Event(), threading.Event()
    read = elsewhere._read_redis

    def read_slowly(keys):
        found = read(keys)
        is_read.set()
        assert is_deleted.wait(90)
        return found

    settings.LAST_KNOWN_TIMEOUT_S = 90
    monkeypatch.setattr(elsewhere, "_read_redis", read_slowly)
    elsewhere.memory.max_bytes = MAX_BYTES
    look_up = asyncio.ensure_future(getattr(elsewhere, find)(KEY))
    await asyncio.to_thread(is_read.wait, 90)
    elsewhere.delete(KEY)
    await asyncio.wrap_future(elsewhere.flush())
    is_deleted.set()
    await look_up
    await asyncio.wrap_future(elsewhere.flush())
    assert stored_keys(elsewhere) == set()
    assert elsewhere.memory.get(KEY) is None


@run
async def test_disk_that_hangs_does_not_hide_what_is_in_redis(
    store, elsewhere, monkeypatch, settings
):
    await asyncio.to_thread(put, store)
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 90)
    settings.LAST_KNOWN_TIMEOUT_S = 4
    with locked(elsewhere):
        names = [str(n) for n in range(8)]  # more than there are threads
        others = [elsewhere.find_stale(shared(name)) for name in names]
        *_, found = await asyncio.gather(*others, elsewhere.find_stale(KEY))
    assert found.body == b"body"


@run
async def test_responses_are_looked_up_in_redis_together(
    store, elsewhere, server, monkeypatch
):
    keys = [shared(str(n)) for n in range(5)]
    for key in keys[:-1]:
        await asyncio.to_thread(put, store, key)
    await asyncio.to_thread(server.set, *not_a_response(store, server, keys[0]))
    calls, read = [], elsewhere._read_redis

    def read_and_count(group):
        calls.append(len(group))
        return read(group)

    monkeypatch.setattr(elsewhere, "_read_redis", read_and_count)
    found = await asyncio.gather(*map(elsewhere.find_fresh_in_redis, keys))
    assert [response is not None for response in found] == [False, *[True] * 3, False]
    assert calls == [5]


def not_a_response(store, server, key):
    """Return the name of the slot of `key` in Redis, and what nobody can decode."""
    [name] = server.keys(f"*{store._slot(key)}")
    return name, b"\x00damaged"


def test_response_that_is_being_deleted_is_not_found_in_redis(store, elsewhere):
    put(store)
    elsewhere.delete(KEY)
    assert asyncio.run(elsewhere.find_fresh_in_redis(KEY)) is None
    assert body_in(elsewhere) is None
    elsewhere.flush().result()
    assert store._read_redis([KEY]) == {}


def test_response_read_before_this_process_listens_is_outdated(
    store, elsewhere, monkeypatch
):
    put(store)
    monkeypatch.setattr(subscriber, "_subscribed_at", now())
    found = elsewhere._read_redis([KEY])[KEY]
    assert not found.is_fresh()
    assert found.is_usable_if_error()


@pytest.mark.parametrize("skew_s", [-3_600, 0, 3_600])
def test_age_does_not_depend_on_the_clocks_of_machines(
    store, elsewhere, monkeypatch, skew_s
):
    read_at = now()
    put(store, response=make_response(mark=mark(read_at, ["x"])))
    monkeypatch.setattr(cached_response, "boot_id", lambda: "another")
    monkeypatch.setattr(module, "now", lambda: now() + skew_s * 10**9)
    with time_machine.travel(1_700_000_000 + skew_s, tick=True):
        found = elsewhere._read_redis([KEY])[KEY]
    assert 0 < found.age < 300
    # Never taken to be read later than it was.
    latest = read_at + skew_s * 10**9
    assert latest - 300 * 10**9 < found.mark.at <= latest


@pytest.mark.parametrize("is_known", [False, True])
def test_response_changed_before_it_is_written_is_in_redis_as_stale_alone(
    store, elsewhere, is_known
):
    """Another machine shows it in an outage, unless there is something newer."""
    if is_known:
        put(elsewhere, response=make_response(b"newer"))
    store.put(KEY, make_response(mark=mark(now() - 10**9, ["x"])))
    invalidations.record(["x"])
    store.flush().result()
    found = elsewhere._read_redis([KEY])[KEY]
    assert found.is_usable_if_error()
    assert (found.body, found.fresh_s) == ((b"newer", 10) if is_known else (b"body", 0))


def test_response_read_before_a_void_is_not_written_to_redis(store, elsewhere):
    store.put(KEY, make_response(stored=time.monotonic() - 1))
    invalidations.record([VOID, EVERYTHING])
    store.flush().result()
    assert elsewhere._read_redis([KEY]) == {}


def test_private_responses_have_a_bounded_room_of_their_own_in_redis(
    store, elsewhere, server
):
    for n in range(3 * store.slots):
        store.put(shared(str(n)), make_response())
        store.put(PRIVATE._replace(path=f"/{n}"), make_response(b"%d" % n))
    store.put(PRIVATE, make_response(b"mine"))
    store.flush().result()
    private = set(server.keys("*response:private:*"))
    assert 0 < len(private) <= store.slots / PRIVATE_SHARE
    assert len(set(server.keys("*response:*")) - private) <= store.slots
    assert body_in(elsewhere, PRIVATE) == b"mine"
    assert asyncio.run(elsewhere.find_stale(PRIVATE, in_redis=False)) is None
    # Nothing else finds it, and it goes no further than to Redis.
    assert body_in(elsewhere, PRIVATE._replace(credentials=("other",))) is None
    elsewhere.flush().result()
    assert elsewhere.disk_usage()[0] == 0
    store.delete(PRIVATE)
    store.flush().result()
    assert body_in(elsewhere, PRIVATE) is None


def test_private_response_is_not_in_redis_after_a_change_of_its_client(
    store, elsewhere
):
    store.put(PRIVATE, make_response(mark=mark(now() - 10**9, ["user:1"])))
    invalidations.record(["user:1"])
    store.flush().result()
    assert body_in(elsewhere, PRIVATE) is None


def test_redis_holds_a_bounded_number_of_responses(store, elsewhere, server):
    for n in range(3 * store.slots):
        store.put(shared(str(n)), make_response(b"%d" % n))
    store.put(OTHER, make_response(os.urandom(module.MAX_REDIS_BYTES)))
    store.flush().result()
    names = server.keys("*response:*")
    assert len(names) <= store.slots
    assert all(0 < server.ttl(name) <= STALE_IF_ERROR_S for name in names)
    found = [body_in(elsewhere, shared(str(n))) for n in range(3 * store.slots)]
    assert all(body in (None, b"%d" % n) for n, body in enumerate(found))
    assert found[-1] is not None
    assert body_in(elsewhere, OTHER) is None


def test_lookups_that_find_nothing_become_rare_and_come_back(
    server, store, monkeypatch
):
    made, found, numbers = [], None, count()

    def read(keys):
        made.extend(keys)
        return dict.fromkeys(keys, found) if found else {}

    monkeypatch.setattr(store, "_read_redis", read)

    async def look_up(times):
        made.clear()
        for _ in range(times):
            await store.find_fresh_in_redis(shared(str(next(numbers))))
        return len(made)

    assert asyncio.run(look_up(1_000)) < 400
    found = make_response()
    asyncio.run(look_up(SAMPLE_EVERY))
    assert asyncio.run(look_up(10)) == 10


# --- at the edge


@pytest.mark.urls("tests.resilient_site.edge.views")
@pytest.mark.django_db
@pytest.mark.parametrize("is_changed", [False, True])
@run
async def test_fresh_response_of_another_machine_spares_the_origin(server, is_changed):
    first = await get()
    response_store.flush().result()
    # Be another machine, with nothing in memory or on disk.
    response_store.memory = ResponseCache(response_store.memory.max_bytes)
    response_store.max_disk_bytes = 0
    if is_changed:
        invalidations.record(["thing"])
    view.respond = lambda request: HttpResponse("from the origin")
    answer = await get()
    assert (answer.body == first.body) == (not is_changed)
    assert answer.is_hit == (not is_changed)


def test_writing_goes_on_after_a_write_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_PERIOD_S", 0.01)
    store = ResponseStore(tmp_path / "disk", 10**6, 0, 10**6)
    written = []

    def write(changes) -> None:
        written.append(changes)
        if len(written) == 1:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(store, "_write", write)

    async def run() -> None:
        task = asyncio.create_task(store.write_behind())
        while len(written) < 2 and not task.done():
            store._pending = {"key": module.Change(None)}
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    asyncio.run(run())
