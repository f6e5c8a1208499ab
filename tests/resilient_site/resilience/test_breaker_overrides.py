"""Operator overrides hold in every process, and outlive them."""

import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from resilient_site.resilience import breaker_overrides, breakers
from resilient_site.resilience.breaker_overrides import BreakerOverrides, Override
from resilient_site.resilience.breakers import Breaker, State
from tests.private_server import wait_for

pytestmark = pytest.mark.once


@pytest.fixture
def two(monkeypatch) -> tuple[Breaker, Breaker]:
    two = Breaker("cache"), Breaker("database")
    monkeypatch.setattr(breakers, "all_breakers", lambda: two)
    monkeypatch.setattr(breakers, "cache", two[0])
    return two


def for_a_minute(state: State) -> Override:
    return Override(state, datetime.now(UTC) + timedelta(minutes=1), "ada")


@pytest.mark.parametrize(
    ("entry", "minutes"),
    [
        ({"until": "2026-03-01T12:05:00Z"}, 5),
        ({"until": "2036-03-01T12:00:00Z"}, 60),
        ({}, 60),  # as by an editor
    ],
)
def test_override_expires_within_the_hour(tmp_path, two, time_machine, entry, minutes):
    began = datetime(2026, 3, 1, 12, tzinfo=UTC)
    overrides = BreakerOverrides(tmp_path / "breakers.json")
    overrides.path.write_text(json.dumps({"cache": {"state": "open", **entry}}))
    os.utime(overrides.path, (began.timestamp(), began.timestamp()))
    for after, state in ((minutes - 1, State.OPEN), (minutes + 1, None)):
        time_machine.move_to(began + timedelta(minutes=after))
        overrides.apply()
        assert two[0].forced is state
        assert list(overrides.current()) == (["cache"] if state else [])
    overrides.set("database", for_a_minute(State.CLOSED))
    assert list(json.loads(overrides.path.read_text())) == ["database"]


def test_override_is_applied_and_removed(tmp_path, two):
    overrides = BreakerOverrides(tmp_path / "new" / "breakers.json")
    overrides.set("cache", for_a_minute(State.OPEN))
    overrides.set("database", for_a_minute(State.CLOSED))
    assert [breaker.state for breaker in two] == [State.OPEN, State.CLOSED]
    assert overrides.current()["cache"].by == "ada"
    assert stat.S_IMODE(overrides.path.stat().st_mode) == 0o600
    overrides.set("cache", None)
    assert [breaker.forced for breaker in two] == [None, State.CLOSED]
    assert list(overrides.current()) == ["database"]


def test_override_is_applied_by_other_and_later_processes(tmp_path, two, monkeypatch):
    monkeypatch.setattr(breaker_overrides, "CHECK_PERIOD_S", 0.01)
    path = tmp_path / "breakers.json"
    follower = BreakerOverrides(path)
    follower.start()
    try:
        path.write_text('{"database": {"state": "open"}}')  # as by an editor
        wait_for(lambda: two[1].state is State.OPEN)
        path.unlink()
        wait_for(lambda: two[1].forced is None)
        path.write_text('{"database": {"state": "open"}}')
        wait_for(lambda: two[1].state is State.OPEN)
    finally:
        follower.stop()
    two[1].override(None)
    next_one = BreakerOverrides(path)
    next_one.start()
    next_one.stop()
    assert two[1].state is State.OPEN


def test_file_that_was_read_before_it_was_filled_is_read_again(tmp_path, two):
    """An editor empties and fills it within one tick of the file system's clock."""
    overrides, tick = BreakerOverrides(tmp_path / "breakers.json"), time.time_ns()
    for content, forced in (("", None), ('{"cache": {"state": "open"}}', State.OPEN)):
        overrides.path.write_text(content)
        os.utime(overrides.path, ns=(tick, tick))
        overrides.apply()
        assert two[0].forced is forced


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "7", '{"cache": "open"}', '{"cache": {"state": "ajar"}}',
        '{"cache": {"state": "half open"}}', '{"cache": {}}', "\ud800",
    ],
)  # fmt: skip
def test_file_that_cannot_be_read_overrides_nothing(tmp_path, two, content):
    overrides = BreakerOverrides(tmp_path / "breakers.json")
    overrides.path.write_bytes(b'{"cache": {"state": "open"}}')
    overrides.apply()
    assert two[0].state is State.OPEN
    overrides.path.unlink()
    overrides.path.write_bytes(content.encode("utf-8", "surrogatepass"))
    overrides.apply()
    assert two[0].forced is None
    overrides.set("cache", for_a_minute(State.CLOSED))
    assert json.loads(overrides.path.read_text())["cache"]["state"] == "closed"


def test_concurrent_overrides_are_all_stored(tmp_path, two):
    path = tmp_path / "breakers.json"
    names = [f"n{n}" for n in range(20)]
    with ThreadPoolExecutor(len(names)) as threads:
        list(
            threads.map(
                lambda n: BreakerOverrides(path).set(n, for_a_minute(State.OPEN)), names
            )
        )
    assert sorted(BreakerOverrides(path).current()) == sorted(names)
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"breakers.json", "breakers.lock"}
