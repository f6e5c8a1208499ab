"""When things were changed: seen by all processes at once, and never lost."""

import os
import subprocess
import sys
import threading
import time

import pytest
from django.db import transaction

from resilient_site.edge.cache import invalidation as module
from resilient_site.edge.cache.invalidation import (
    BLUR_NS,
    CHANGES,
    EVERYTHING,
    SLOTS,
    WIDTH,
    Generations,
    Mark,
    boot_id,
    invalidate,
    mark,
    now,
    slot_of,
)
from tests.running import ROOT


@pytest.fixture
def generations(tmp_path) -> Generations:
    return Generations(tmp_path)


def test_a_copy_is_current_until_one_of_its_tags_changes(generations):
    kept = mark(now(), ["a", "b"])
    assert generations.is_current(kept)
    generations.renew(["c"])
    assert generations.is_current(kept)
    generations.renew(["b"])
    assert not generations.is_current(kept)


@pytest.mark.parametrize("tag", [EVERYTHING, CHANGES])
def test_some_tags_are_of_every_copy_and_of_every_change(generations, tag):
    of_all = mark(now(), ["a", CHANGES])
    generations.renew(["other" if tag == CHANGES else tag])
    assert not generations.is_current(of_all)


def test_what_is_read_after_the_change_is_current(generations):
    generations.renew(["a"])
    changed = now()
    assert generations.is_current(mark(changed + BLUR_NS + 1, ["a"]))


def test_another_process_sees_it_at_once(generations, tmp_path):
    kept, other = mark(now(), ["a"]), Generations(tmp_path)
    assert other.is_current(kept)
    generations.renew(["a"])
    assert not other.is_current(kept)


def test_writers_at_once_lose_no_change(generations):
    """Each looks after its own change whether what it read before is outdated."""
    wrong = []

    def write(n: int) -> None:
        for _ in range(300):
            before = now()
            generations.renew(["a"])
            if generations.is_current(mark(before, ["a"])):
                wrong.append(n)

    writers = [threading.Thread(target=write, args=[n]) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not wrong


def test_a_writer_who_is_held_up_undoes_no_later_change(generations, monkeypatch):
    """Between his look at the clock and his store another one renews the same."""
    is_first = True

    def held_up() -> int:
        nonlocal is_first
        moment = time.monotonic_ns()
        if is_first:
            is_first = False
            time.sleep(5 * BLUR_NS / 1e9)
            monkeypatch.setattr(module, "now", time.monotonic_ns)
            generations.renew(["a"])
            late.append(time.monotonic_ns())
        return moment

    late: list[int] = []
    monkeypatch.setattr(module, "now", held_up)
    generations.renew(["a"])
    assert not generations.is_current(mark(late[0] - 1, ["a"]))


def test_it_survives_the_death_of_every_process(generations, tmp_path):
    kept = mark(now(), ["a"])
    code = (
        "import os, sys; from pathlib import Path; from django.conf import settings\n"
        "settings.configure(DATA_DIR=Path(sys.argv[1]))\n"
        "from resilient_site.edge.cache.invalidation import generations\n"
        "generations.renew(['a']); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, timeout=30)
    assert not generations.is_current(kept)


def test_what_an_earlier_run_of_the_machine_left_is_deleted(generations, tmp_path):
    assert generations.slots
    (tmp_path / "generations-earlier").write_bytes(b"")
    generations.forget_earlier_boots()
    assert os.listdir(tmp_path) == [f"generations-{boot_id()}"]


def test_its_room_is_taken_at_the_start(generations, tmp_path):
    """A store into a hole of a file on a full disk would kill the process."""
    assert generations.slots
    status = (tmp_path / f"generations-{boot_id()}").stat()
    assert status.st_blocks * 512 >= SLOTS * WIDTH
    assert status.st_mode & 0o077 == 0


def test_without_the_file_nothing_is_current_and_nothing_breaks(tmp_path):
    (tmp_path / "file").write_text("no folder")
    generations = Generations(tmp_path / "file")
    kept = mark(now(), ["a"])
    assert not generations.is_current(kept)
    generations.renew(["a"])
    (tmp_path / "file").unlink()
    assert generations.is_current(kept)  # it is tried again


def test_a_moment_of_another_run_of_the_machine_is_never_current(generations):
    assert not generations.is_current(Mark(0, (slot_of("a"),)))


@pytest.mark.django_db(transaction=True)
def test_a_change_counts_from_its_commit_and_only_then():
    shared = module.generations
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
def test_listeners_hear_of_a_change(monkeypatch):
    heard: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "listeners", [heard.append])
    invalidate("a", "b")
    assert heard == [("a", "b")]
