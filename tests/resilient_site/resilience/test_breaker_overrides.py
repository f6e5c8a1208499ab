"""Operator overrides hold in every process, and outlive them."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient_site.resilience import breaker_overrides, breakers
from resilient_site.resilience.breaker_overrides import BreakerOverrides
from resilient_site.resilience.breakers import Breaker, State
from tests.private_server import wait_for

pytestmark = pytest.mark.once


@pytest.fixture
def two(monkeypatch) -> tuple[Breaker, Breaker]:
    two = Breaker("cache"), Breaker("database")
    monkeypatch.setattr(breakers, "all_breakers", lambda: two)
    monkeypatch.setattr(breakers, "cache", two[0])
    return two


def test_override_is_applied_and_removed(tmp_path, two):
    overrides = BreakerOverrides(tmp_path / "new" / "breakers.json")
    overrides.set("cache", State.OPEN, "ada")
    overrides.set("database", State.CLOSED, "ben")
    assert [breaker.state for breaker in two] == [State.OPEN, State.CLOSED]
    assert overrides.current()["cache"].by == "ada"
    assert stat.S_IMODE(overrides.path.stat().st_mode) == 0o600
    overrides.set("cache", None, "ada")
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
    overrides.set("cache", State.CLOSED, "ada")
    assert json.loads(overrides.path.read_text())["cache"]["state"] == "closed"


def test_concurrent_overrides_are_all_stored(tmp_path, two):
    path = tmp_path / "breakers.json"
    names = [f"n{n}" for n in range(20)]
    with ThreadPoolExecutor(len(names)) as threads:
        list(
            threads.map(
                lambda name: BreakerOverrides(path).set(name, State.OPEN, "ada"), names
            )
        )
    assert sorted(BreakerOverrides(path).current()) == sorted(names)
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"breakers.json", "breakers.lock"}
