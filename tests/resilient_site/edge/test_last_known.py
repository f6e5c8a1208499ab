"""The last known answers on the disk: whatever happens to the file costs no more."""

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilient_site.edge.cache import bloom_filter
from resilient_site.edge.cache.cached_response import Copy
from resilient_site.edge.cache.disk_stale_store import (
    BATCH_SHARE,
    LastKnown,
    dump,
    load,
)
from resilient_site.edge.cache.invalidation import Mark, now
from tests.private_server import wait_for
from tests.resilient_site.edge.clients import write_out
from tests.running import ROOT

MAX_BYTES = 1024 * 1024


@pytest.fixture
def kept(tmp_path):
    last_known = LastKnown(tmp_path / "copies.sqlite3", MAX_BYTES)
    last_known.start()
    yield last_known
    last_known.stop()


def copy(body: bytes = b"body", **changes) -> Copy:
    headers = [(b"content-type", b"text/plain"), (b"etag", b'"\xe4"')]
    made = Copy(headers, body, 10, 60, 86400, Mark(now(), (1, 2)), etag=b'"\xe4"')
    return replace(made, **changes)


def read(last_known: LastKnown, key: str = "key") -> Copy | None:
    return asyncio.run(last_known.get(key))


def body_of(last_known: LastKnown, key: str = "key") -> bytes | None:
    found = read(last_known, key)
    return found.body if found else None


def size_on_disk(last_known: LastKnown) -> int:
    paths = last_known.path.parent.glob(f"{last_known.path.name}*")
    return sum(path.stat().st_size for path in paths)


def keys(last_known: LastKnown) -> set[str]:
    with closing(sqlite3.connect(last_known.path)) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM copies")}


def test_a_copy_comes_back_as_it_was(kept):
    original = copy(vary=frozenset())
    kept.keep("key", original)
    write_out(kept)
    found = read(kept)
    assert found is not None
    assert abs(found.age - original.age) < 1
    assert replace(found, stored=original.stored) == original
    assert read(kept, "other") is None


def test_it_tells_how_many_copies_there_are(kept):
    assert kept.is_empty()
    assert kept.count() == 0
    for key in ("a", "b"):
        kept.keep(key, copy())
    write_out(kept)
    assert not kept.is_empty()
    assert kept.count() == 2
    kept.path.write_bytes(b"this is no database" * 1000)
    assert kept.count() == 0


def test_the_file_is_for_its_owner_alone(kept):
    kept.keep("key", copy())
    write_out(kept)
    assert kept.path.stat().st_mode & 0o077 == 0


def test_what_another_process_keeps_may_soon_be_found(kept, monkeypatch):
    monkeypatch.setattr(bloom_filter, "CURRENT_S", 0)
    wait_for(lambda: not kept.may_have("key"))
    other = LastKnown(kept.path, MAX_BYTES)
    other.start()
    other.keep("key", copy())
    other.stop()
    wait_for(lambda: kept.may_have("key"))
    assert not kept.may_have("another")


def test_what_is_kept_here_may_be_found_at_once(kept):
    wait_for(lambda: not kept.may_have("key"))
    kept.keep("key", copy())
    assert kept.may_have("key")


def test_before_anything_is_written_nothing_is_known(kept, caplog):
    assert read(kept) is None
    assert not caplog.records


def test_it_is_there_for_the_next_process(kept, tmp_path):
    kept.keep("key", copy())
    kept.stop()
    other = LastKnown(kept.path, MAX_BYTES)
    other.start()
    try:
        assert body_of(other) == b"body"
        other.keep("key", copy(b"newer"))
        write_out(other)
    finally:
        other.stop()
    kept.start()
    assert body_of(kept) == b"newer"


def test_what_is_forgotten_is_gone(kept):
    kept.keep("key", copy())
    kept.keep("other", copy())
    write_out(kept)
    kept.forget("key")
    write_out(kept)
    assert keys(kept) == {"other"}
    kept.keep("key", copy())  # the same as before, and yet it is written
    write_out(kept)
    assert body_of(kept) == b"body"


def test_of_one_key_the_last_word_counts(kept):
    for _ in range(20):
        kept.keep("a", copy())
        kept.forget("a")
        kept.forget("b")
        kept.keep("b", copy())
    write_out(kept)
    assert keys(kept) == {"b"}


def test_after_a_day_it_is_deleted(kept):
    kept.keep("old", copy(stored_at=time.time() - 86400 - 1))
    kept.keep("young", copy(stored_at=time.time() - 86400 + 60))
    write_out(kept)
    kept.keep("new", copy())
    write_out(kept)
    assert keys(kept) == {"young", "new"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"this is no database" * 1000,
        lambda data: data[: len(data) // 2],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: data[:4096] + os.urandom(len(data) - 4096),
        None,
    ],
    ids=["overwritten", "truncated", "header only", "empty", "pages", "deleted"],
)
def test_a_damaged_file_is_made_anew(kept, damage):
    for n in range(50):
        kept.keep(f"key {n}", copy(os.urandom(2000)))
    write_out(kept)
    if damage:
        kept.path.write_bytes(damage(kept.path.read_bytes()))
    else:
        kept.path.unlink()
    assert read(kept, "key 1") is None or damage
    for n in range(2):  # the first one may be what finds the damage
        kept.keep("key", copy(b"%d" % n))
        write_out(kept)
    assert body_of(kept) == b"1"


def test_a_body_that_changed_on_the_disk_is_not_shown(kept):
    kept.keep("key", copy())
    write_out(kept)
    with closing(sqlite3.connect(kept.path)) as connection, connection:
        connection.execute("UPDATE copies SET body = x'00'")
    assert read(kept) is None


@pytest.mark.parametrize("about", [b"", b"[]", b"{}", b"null", b'{"check": 1}', "text"])
def test_a_row_that_says_nonsense_is_not_shown(kept, about):
    kept.keep("key", copy())
    write_out(kept)
    with closing(sqlite3.connect(kept.path)) as connection, connection:
        connection.execute("UPDATE copies SET about = ?", [about])
    assert read(kept) is None


def test_its_size_is_bounded_and_the_oldest_go_first(kept):
    for n in range(100):
        kept.keep(f"key {n:03}", copy(os.urandom(20_000)))
        if n % 5 == 4:
            write_out(kept)
            assert size_on_disk(kept) <= MAX_BYTES * (1 + 2 * BATCH_SHARE)
    left = keys(kept)
    assert "key 099" in left
    assert "key 000" not in left
    assert len(left) > 15


def test_what_is_far_too_large_is_not_kept(kept):
    kept.keep("key", copy(b"x" * MAX_BYTES))
    write_out(kept)
    assert read(kept) is None


def test_no_room_at_all_turns_it_off(tmp_path):
    off = LastKnown(tmp_path / "copies.sqlite3", 0)
    off.start()
    off.keep("key", copy())
    write_out(off)
    assert read(off) is None
    off.stop()


def test_what_waits_for_a_slow_disk_is_bounded(kept):
    kept.stop()
    kept.max_bytes = 10**9
    for n in range(3000):
        kept.keep(f"key {n}", copy(b"x" * 100_000))
    assert kept._waiting_bytes <= 16 * 1024 * 1024
    assert kept._waiting.qsize() <= 1000


def test_a_locked_file_keeps_nobody(kept):
    kept.keep("key", copy())
    write_out(kept)
    with closing(sqlite3.connect(kept.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert body_of(kept) == b"body"


def test_a_full_disk_costs_only_what_was_to_be_kept(tmp_path):
    code = """
import asyncio, resource, sys
from pathlib import Path
sys.path.insert(0, "")
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "resilient_site.settings"
from tests.resilient_site.edge.test_last_known import copy, body_of
from tests.resilient_site.edge.clients import write_out
from resilient_site.edge.cache.disk_stale_store import LastKnown
kept = LastKnown(Path(sys.argv[1]) / "copies.sqlite3", 10**8)
kept.start()
kept.keep("early", copy())
write_out(kept)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
kept.keep("too much", copy(b"x" * 500_000))
write_out(kept)
assert body_of(kept, "early") == b"body"
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
kept.keep("late", copy(b"late"))
write_out(kept)
assert body_of(kept, "late") == b"late", body_of(kept, "late")
assert body_of(kept, "early") == b"body"
kept.stop()
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
        env=os.environ | {"DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_folder_that_is_gone_does_no_harm(kept):
    kept.path = kept.path.parent / "nowhere" / "copies.sqlite3"
    kept.keep("key", copy())
    write_out(kept)
    assert read(kept) is None
    assert kept._writer is not None
    assert kept._writer.is_alive()


def test_what_an_earlier_run_of_the_machine_kept_is_known_to_be_outdated(monkeypatch):
    from resilient_site.edge.cache import disk_stale_store

    _, stored_at, _, about, body = dump("key", copy())
    monkeypatch.setattr(disk_stale_store, "boot_id", lambda: "another")
    assert load(stored_at, about, body).mark.at == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(),
    st.lists(st.tuples(st.binary(), st.binary())),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 65535)),
)
def test_any_copy_survives_the_way_to_the_disk(body, headers, limit, slots):
    made = Copy(headers, body, limit, limit, limit, Mark(now(), tuple(slots)))
    _, stored_at, _, about, kept_body = dump("key", made)
    found = load(stored_at, about, kept_body)
    assert (found.headers, found.body, found.mark) == (headers, body, made.mark)
    assert (found.fresh_s, found.stale_if_error_s) == (limit, limit)
