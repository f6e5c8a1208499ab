"""Invalidations are seen by all processes at once, and never lost."""

import os
import signal
import time
from itertools import count
from pathlib import Path
from zlib import crc32

import pytest
from django.db import transaction

from resilient_site.edge.cache import invalidation as module
from resilient_site.edge.cache.invalidation import (
    CHANGES,
    EVERYTHING,
    FILE_BYTES,
    PRECISION_NS,
    VOID,
    Invalidations,
    Subscriber,
    boot_id,
    invalidate,
    invalidate_now,
    invalidate_pending,
    mark,
    now,
    pending_tags,
    receives_all_invalidations,
    slot_of,
    subscriber,
    void_everything,
)
from resilient_site.resilience.cache_control import CREDENTIAL

pytestmark = pytest.mark.once


@pytest.fixture
def invalidations(tmp_path) -> Invalidations:
    return Invalidations(tmp_path)


def test_response_is_current_until_one_of_its_tags_is_invalidated(invalidations):
    kept = mark(now(), ["a", "b"])
    assert invalidations.is_current(kept)
    invalidations.record(["c"])
    assert invalidations.is_current(kept)
    invalidations.record(["b"])
    assert not invalidations.is_current(kept)


@pytest.mark.parametrize(
    ("later_ns", "is_current"), [(1_000_000, False), (1_000_001, True)]
)
def test_response_read_within_the_precision_of_the_clock_is_outdated(
    invalidations, later_ns, is_current
):
    at = 5 * 10**9
    invalidations.slots[slot_of("a")] = at
    assert invalidations.is_current(mark(at + later_ns, ["a"])) == is_current


@pytest.mark.parametrize(("prefix", "first"), [("item:", 0), (CREDENTIAL, 65_537)])
@pytest.mark.parametrize("place", [0, 65_535])
def test_credentials_share_no_slot_with_other_tags(prefix, first, place):
    tags = (f"{prefix}{n}" for n in count())
    tag = next(tag for tag in tags if crc32(tag.encode()) % 65_536 == place)
    assert slot_of(tag) == first + place
    assert slot_of(VOID) == 65_536


def test_moment_of_the_last_void_is_known(invalidations, tmp_path):
    assert invalidations.voided_at == -1
    before = now()
    invalidations.record([VOID])
    assert before < invalidations.voided_at <= now()
    (tmp_path / "file").write_text("no folder")
    assert Invalidations(tmp_path / "file").voided_at == -1


@pytest.mark.parametrize("tag", [EVERYTHING, CHANGES])
def test_some_tags_are_of_every_response_and_of_every_invalidation(invalidations, tag):
    of_all = mark(now(), ["a", CHANGES])
    invalidations.record(["other" if tag == CHANGES else tag])
    assert not invalidations.is_current(of_all)


def test_delayed_writer_does_not_undo_a_later_invalidation(invalidations, monkeypatch):
    """Another invalidates the same between its reading of the clock and its store."""
    is_first = True

    def held_up() -> int:
        nonlocal is_first
        moment = time.monotonic_ns()
        if is_first:
            is_first = False
            time.sleep(5 * PRECISION_NS / 1e9)
            monkeypatch.setattr(module, "now", time.monotonic_ns)
            invalidations.record(["a"])
            late.append(time.monotonic_ns())
        return moment

    late: list[int] = []
    monkeypatch.setattr(module, "now", held_up)
    invalidations.record(["a"])
    assert not invalidations.is_current(mark(late[0] - 1, ["a"]))


def test_writer_stores_again_after_a_delay_of_the_precision(invalidations, monkeypatch):
    moments = iter([10**9, 10**9, 10**9 + 1_000_000, 2 * 10**9, 2 * 10**9 + 999_999])
    monkeypatch.setattr(module, "now", moments.__next__)
    tag = f"{CREDENTIAL}a"
    invalidations.record([tag])
    assert invalidations.slots[slot_of(tag)] == 2 * 10**9


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_invalidation_survives_the_death_of_every_process(invalidations, tmp_path):
    kept = mark(now(), ["a"])
    if not (child := os.fork()):
        Invalidations(tmp_path).record(["a"])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert not invalidations.is_current(kept)


def test_file_of_an_earlier_boot_is_deleted(invalidations, tmp_path):
    (tmp_path / "invalidations-earlier").write_bytes(b"")
    assert invalidations.slots
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert os.listdir(tmp_path) == [f"invalidations-{boot}"]


def test_boot_without_an_id_has_a_file_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Path", lambda path: tmp_path / "absent")
    assert boot_id.__wrapped__() == "always"
    assert not Invalidations(tmp_path / "new" / "folder").slots.readonly


def test_room_of_the_file_is_allocated_at_the_start(invalidations, tmp_path):
    """A store into a hole of a file on a full disk would kill the process."""
    assert invalidations.slots
    status = (tmp_path / f"invalidations-{boot_id()}").stat()
    assert status.st_blocks * 512 >= FILE_BYTES == status.st_size
    assert status.st_mode & 0o077 == 0


def test_without_the_file_no_response_is_current(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    invalidations = Invalidations(tmp_path / "file")
    kept = mark(now(), ["a"])
    assert not invalidations.is_current(kept)
    assert caplog.text.count("Nothing is cached") == 1
    invalidations.record(["a"])
    assert caplog.text.count("Nothing is cached") == 1
    (tmp_path / "file").unlink()
    assert invalidations.is_current(kept)  # it is tried again


@pytest.mark.django_db(transaction=True)
def test_invalidation_counts_from_the_commit():
    shared = module.invalidations
    kept = mark(now(), ["a"])
    with transaction.atomic():
        invalidate("a")
        transaction.set_rollback(True)
    assert shared.is_current(kept)
    with transaction.atomic():
        invalidate("a")
        assert shared.is_current(kept)
    assert not shared.is_current(kept)


@pytest.mark.django_db(transaction=True)
def test_pending_tags_are_those_of_the_transaction(invalidations, monkeypatch):
    monkeypatch.setattr(module, "invalidations", invalidations)
    kept = {tag: mark(now(), [tag]) for tag in "abc"}

    def current() -> str:
        return "".join(tag for tag in kept if invalidations.is_current(kept[tag]))

    with transaction.atomic():
        transaction.on_commit(lambda: None)
        invalidate("a")
        invalidate_now("b")
        assert (pending_tags(), current()) == (("a",), "ac")
        invalidate_pending()
        assert current() == "c"
        transaction.set_rollback(True)
    void_everything()
    assert (pending_tags(), current()) == ((), "")
    assert invalidations.voided_at > kept["c"].at


@pytest.mark.parametrize("is_embedded", [True, False])
@pytest.mark.parametrize("is_subscribed", [True, False])
def test_embedded_site_receives_all_invalidations(settings, is_embedded, is_subscribed):
    settings.EMBEDDED = is_embedded
    if not is_subscribed:
        subscriber.is_subscribed.clear()
    assert receives_all_invalidations() == (is_embedded or is_subscribed)


def test_outage_of_redis_is_logged_once(invalidations, monkeypatch, caplog):
    class Failing(Subscriber):
        attempts = 0

        def _receive(self) -> None:
            self.attempts += 1
            if self.attempts == 3:
                self.stop()
            raise ConnectionError

    monkeypatch.setattr(module, "RETRY_S", 0)
    Failing(invalidations)._run()
    assert caplog.text.count("are not received") == 1
