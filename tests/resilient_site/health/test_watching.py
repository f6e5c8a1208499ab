"""A part is looked at beside the requests; what hangs holds up nobody."""

import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from resilient_site.edge import probes
from resilient_site.edge.streaming import held
from resilient_site.health import health_json
from resilient_site.health.components import Finding, Part, Status
from resilient_site.health.monitor import HANGS_S, Probe, Report, Watch
from tests.private_server import wait_for


class Checked:
    """A part that is as it is told to be."""

    def __init__(self, name: str = "cache") -> None:
        self.part = Part(name, name.title(), "component", self.check)
        self.finding: Finding | Exception = Finding(Status.PASS, "It works.")

    def check(self) -> Finding:
        if isinstance(self.finding, Exception):
            raise self.finding
        return self.finding


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_since_is_when_the_status_changed():
    checked = Checked()
    probe = Probe(checked.part)
    probe.look()
    well = probe.standing
    checked.finding = Finding(Status.WARN, "Slowly.", "boom", (("Calls", "1"),))
    probe.look()
    worse = probe.standing
    assert worse.status is Status.WARN
    assert (worse.meaning, worse.error) == ("Slowly.", "boom")
    assert worse.since > well.since
    checked.finding = Finding(Status.WARN, "Slowly.", "bang", (("Calls", "2"),))
    probe.look()
    assert probe.standing.since == worse.since
    # The page of everybody is not made anew for what it does not show.
    assert probe.standing == worse
    assert probe.standing.figures == (("Calls", "2"),)


def test_a_check_that_raises_leaves_its_part_unknown():
    checked = Checked()
    checked.finding = OSError("redis://user:secret@host broke")
    probe = Probe(checked.part)
    probe.look()
    assert probe.standing.status is Status.UNKNOWN
    assert probe.standing.error == "OSError: redis://***@host broke"


def test_a_check_that_hangs_leaves_its_part_unknown_since_it_began():
    clock, begun, ending = Clock(), threading.Event(), threading.Event()
    checked = Checked()

    def hang() -> Finding:
        begun.set()
        ending.wait()
        return Finding(Status.PASS, "It works.")

    probe = Probe(checked.part, clock)
    probe.look()
    well = probe.standing
    probe.part = replace(checked.part, check=hang)
    thread = threading.Thread(target=probe.look)
    thread.start()
    assert begun.wait(5)
    clock.now += HANGS_S - 0.1
    assert probe.standing == well
    clock.now += 60
    seconds = (datetime.now(UTC) - probe.standing.since).total_seconds()
    assert probe.standing.status is Status.UNKNOWN
    assert seconds == pytest.approx(60 + HANGS_S, abs=1.1)
    ending.set()
    thread.join()
    assert probe.standing == well


def test_parts_are_watched_each_by_itself():
    hung, ending = threading.Event(), threading.Event()

    def hang() -> Finding:
        hung.set()
        ending.wait()
        return Finding(Status.PASS, "It works.")

    checked = Checked("edge")
    watch = Watch()
    watch.start([Part("cache", "Cache", "component", hang), checked.part])
    try:
        assert hung.wait(5)
        wait_for(lambda: watch.report().status_of("edge") is Status.PASS)
        checked.finding = Finding(Status.FAIL, "It is away.")
        wait_for(lambda: watch.report().status_of("edge") is Status.FAIL)
        assert watch.report().status_of("cache") is Status.UNKNOWN
    finally:
        watch.stop()
        ending.set()


def test_transitions_are_logged_once(caplog):
    caplog.set_level(logging.INFO, "resilient_site.health.monitor")
    checked = Checked()
    probe = Probe(checked.part)
    for status in (Status.PASS, Status.PASS, Status.FAIL, Status.FAIL, Status.PASS):
        checked.finding = Finding(status, "So it is.")
        probe.look()
    assert caplog.messages == ["Cache: FAIL. So it is.", "Cache: PASS. So it is."]


def report_of(**statuses: Status) -> Report:
    found = []
    for name, status in statuses.items():
        checked = Checked(name)
        checked.finding = Finding(status, "So it is.", "with secrets", (("A", "1"),))
        probe = Probe(checked.part)
        probe.look()
        found.append(probe.standing)
    return Report(tuple(found))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({"database": Status.PASS}, "pass"),
        ({"database": Status.PASS, "cache": Status.WARN}, "warn"),
        ({"database": Status.FAIL}, "warn"),
        ({"compute": Status.UNKNOWN}, "warn"),
    ],
)
def test_degraded_is_still_ready(statuses, expected, monkeypatch):
    monkeypatch.setattr(probes.edge, "has_answers", True)
    report = report_of(**statuses)
    assert probes.why_not_ready(report) == ""
    assert health_json.health(report)["status"] == expected


def test_what_only_staff_may_know_is_not_in_the_document():
    report = report_of(cache=Status.WARN)
    (check,) = health_json.health(report)["checks"]["cache"]
    assert (check["status"], check["output"]) == ("warn", "So it is.")
    assert not {"error", "figures"} & set(check)
    (check,) = health_json.with_details(report)["checks"]["cache"]
    assert (check["error"], check["figures"]) == ("with secrets", {"A": "1"})


def test_it_is_not_ready_while_it_stops_or_has_nothing_to_show(monkeypatch):
    away = report_of(database=Status.FAIL)
    monkeypatch.setattr(probes.edge, "has_answers", False)
    assert "nothing is known" in probes.why_not_ready(away)
    assert probes.why_not_ready(report_of(database=Status.PASS)) == ""
    monkeypatch.setattr(held, "is_ending", True)
    assert "being stopped" in probes.why_not_ready(report_of(database=Status.PASS))
