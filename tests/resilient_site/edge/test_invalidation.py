"""Invalidations are seen by all processes at once, and never lost."""

import os
import signal
import time

import pytest
from django.db import transaction

from resilient_site.edge.cache import invalidation as module
from resilient_site.edge.cache.invalidation import (
    CHANGES,
    EVERYTHING,
    FILE_BYTES,
    PRECISION_NS,
    Invalidations,
    boot_id,
    invalidate,
    mark,
    now,
)

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
    assert os.listdir(tmp_path) == [f"invalidations-{boot_id()}"]


def test_room_of_the_file_is_allocated_at_the_start(invalidations, tmp_path):
    """A store into a hole of a file on a full disk would kill the process."""
    assert invalidations.slots
    status = (tmp_path / f"invalidations-{boot_id()}").stat()
    assert status.st_blocks * 512 >= FILE_BYTES
    assert status.st_mode & 0o077 == 0


def test_without_the_file_no_response_is_current(tmp_path):
    (tmp_path / "file").write_text("no folder")
    invalidations = Invalidations(tmp_path / "file")
    kept = mark(now(), ["a"])
    assert not invalidations.is_current(kept)
    invalidations.record(["a"])
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
