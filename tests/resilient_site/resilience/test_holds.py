"""What an operator holds is held by every process, and outlives them."""

import json
import stat
import threading

import pytest
from django.test import override_settings

from resilient_site.resilience import breaker_overrides, breakers
from resilient_site.resilience.breaker_overrides import Holds
from resilient_site.resilience.breakers import Breaker, State
from tests.private_server import wait_for

pytestmark = pytest.mark.once


@pytest.fixture
def two(monkeypatch) -> tuple[Breaker, Breaker]:
    two = Breaker("cache"), Breaker("database")
    monkeypatch.setattr(breakers, "all_breakers", lambda: two)
    monkeypatch.setattr(breakers, "cache", two[0])
    return two


def test_a_hold_is_kept_and_let_go(tmp_path, two):
    held = Holds(tmp_path / "new" / "breakers.json")
    held.set("cache", State.OPEN, "ada")
    held.set("database", State.CLOSED, "ben")
    assert [breaker.state for breaker in two] == [State.OPEN, State.CLOSED]
    assert held.current()["cache"].by == "ada"
    assert stat.S_IMODE(held.path.stat().st_mode) == 0o600
    held.set("cache", None, "ada")
    assert [breaker.snapshot().held for breaker in two] == [None, State.CLOSED]
    assert list(held.current()) == ["database"]


def test_another_process_follows_and_so_does_the_next_one(tmp_path, two, monkeypatch):
    monkeypatch.setattr(breaker_overrides, "LOOK_S", 0.01)
    path = tmp_path / "breakers.json"
    follower = Holds(path)
    follower.start()
    try:
        path.write_text('{"database": {"state": "open"}}')  # as by an editor
        wait_for(lambda: two[1].state is State.OPEN)
        path.unlink()
        wait_for(lambda: two[1].snapshot().held is None)
        path.write_text('{"database": {"state": "open"}}')
        wait_for(lambda: two[1].state is State.OPEN)
    finally:
        follower.stop()
    two[1].hold(None)
    next_one = Holds(path)
    next_one.start()
    next_one.stop()
    assert two[1].state is State.OPEN


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "7", '{"cache": "open"}', '{"cache": {"state": "ajar"}}',
        '{"cache": {"state": "half open"}}', '{"cache": {}}', "\ud800",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_holds_nothing(tmp_path, two, content):
    held = Holds(tmp_path / "breakers.json")
    held.path.write_bytes(b'{"cache": {"state": "open"}}')
    held.apply()
    assert two[0].state is State.OPEN
    held.path.unlink()
    held.path.write_bytes(content.encode("utf-8", "surrogatepass"))
    held.apply()
    assert two[0].snapshot().held is None
    held.set("cache", State.CLOSED, "ada")
    assert json.loads(held.path.read_text())["cache"]["state"] == "closed"


def test_a_breaker_that_is_switched_off_stays_so(tmp_path, two):
    held = Holds(tmp_path / "breakers.json")
    with override_settings(CACHE_BREAKER=False):
        held.set("cache", State.OPEN, "ada")
        assert two[0].state is State.OPEN
        held.set("cache", None, "ada")
        assert two[0].snapshot().held is State.CLOSED


def test_changes_at_the_same_time_are_all_kept(tmp_path, two):
    path = tmp_path / "breakers.json"
    names = [f"n{n}" for n in range(20)]
    threads = [
        threading.Thread(target=Holds(path).set, args=(name, State.OPEN, "ada"))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Holds(path).current()) == sorted(names)
    assert {file.name for file in tmp_path.iterdir()} == {
        "breakers.json",
        "breakers.lock",
    }
