"""Components are monitored beside the requests; a check that hangs delays no other."""

import logging
import threading
from datetime import UTC, datetime

import pytest

from resilient_site.health import health_json
from resilient_site.health.components import CheckResult, Component, Status
from resilient_site.health.monitor import (
    HANGING_AFTER_S,
    ComponentMonitor,
    HealthMonitor,
    Report,
    health_monitor,
)
from tests.clock import Clock
from tests.private_server import wait_for

pytestmark = pytest.mark.once


class Fake:
    """A component whose check gives the result that a test has set."""

    def __init__(self, name: str = "cache") -> None:
        self.component = Component(name, name.title(), "component", self.check)
        self.result: CheckResult | Exception = CheckResult(Status.PASS, "It works.")

    def check(self) -> CheckResult:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_since_is_when_the_status_changed():
    fake = Fake()
    monitor = ComponentMonitor(fake.component)
    monitor.run_check()
    passing = monitor.status
    fake.result = CheckResult(Status.WARN, "Slowly.", "boom", (("Calls", "1"),))
    monitor.run_check()
    warning = monitor.status
    assert warning.status is Status.WARN
    assert (warning.meaning, warning.error) == ("Slowly.", "boom")
    assert warning.since > passing.since
    fake.result = CheckResult(Status.WARN, "Slowly.", "bang", (("Calls", "2"),))
    monitor.run_check()
    assert monitor.status.since == warning.since
    # The public page is not rendered again for what it does not show.
    assert monitor.status == warning
    assert monitor.status.figures == (("Calls", "2"),)


def test_check_that_raises_makes_its_component_unknown():
    fake = Fake()
    fake.result = OSError("redis://user:secret@host broke")
    monitor = ComponentMonitor(fake.component)
    monitor.run_check()
    assert monitor.status.status is Status.UNKNOWN
    assert monitor.status.error == "OSError: redis://***@host broke"


def test_check_that_hangs_makes_its_component_unknown_since_it_started():
    clock = Clock()
    monitor = ComponentMonitor(Fake().component, clock)
    monitor.run_check()
    passing = monitor.status
    clock.now += HANGING_AFTER_S - 0.1
    assert monitor.status == passing
    clock.now += 60
    seconds = (datetime.now(UTC) - monitor.status.since).total_seconds()
    assert monitor.status.status is Status.UNKNOWN
    assert seconds >= 60 + HANGING_AFTER_S - 1.1
    monitor.run_check()
    assert monitor.status == passing


def test_components_are_monitored_independently():
    hung, ending = threading.Event(), threading.Event()

    def hang() -> CheckResult:
        hung.set()
        ending.wait()
        return CheckResult(Status.PASS, "It works.")

    fake, monitor = Fake("edge"), HealthMonitor()
    monitor.start([Component("cache", "Cache", "component", hang), fake.component])
    try:
        assert hung.wait(20)
        wait_for(lambda: monitor.report().status_of("edge") is Status.PASS)
        fake.result = CheckResult(Status.FAIL, "It does not answer.")
        wait_for(lambda: monitor.report().status_of("edge") is Status.FAIL)
        assert monitor.report().status_of("cache") is Status.UNKNOWN
    finally:
        monitor.stop()
        ending.set()


def test_transition_is_logged_once(caplog):
    caplog.set_level(logging.INFO, "resilient_site.health.monitor")
    fake = Fake()
    monitor = ComponentMonitor(fake.component)
    for status in (Status.PASS, Status.PASS, Status.FAIL, Status.FAIL, Status.PASS):
        fake.result = CheckResult(status, "So it is.")
        monitor.run_check()
    assert caplog.messages == ["Cache: FAIL. So it is.", "Cache: PASS. So it is."]


def report_of(**statuses: Status) -> Report:
    found = []
    for name, status in statuses.items():
        fake = Fake(name)
        fake.result = CheckResult(status, "So it is.", "secret", (("A", "1"),))
        monitor = ComponentMonitor(fake.component)
        monitor.run_check()
        found.append(monitor.status)
    return Report(tuple(found))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({"database": Status.PASS}, "pass"),
        ({"database": Status.PASS, "cache": Status.WARN}, "warn"),
        ({"database": Status.FAIL}, "warn"),
        ({"compute": Status.UNKNOWN}, "warn"),
    ],
    ids=["pass", "cache warns", "database fails", "compute unknown"],
)
def test_degraded_process_is_ready(statuses, expected, monkeypatch):
    monkeypatch.setattr(health_monitor, "has_stale_responses", lambda: True)
    report = report_of(**statuses)
    assert health_monitor.why_not_ready(report) == ""
    assert health_json.health(report)["status"] == expected


def test_document_for_everyone_has_no_errors_or_figures():
    report = report_of(cache=Status.WARN)
    (check,) = health_json.health(report)["checks"]["cache"]
    assert (check["status"], check["output"]) == ("warn", "So it is.")
    assert not {"error", "figures"} & set(check)
    (check,) = health_json.health(report, with_details=True)["checks"]["cache"]
    assert (check["error"], check["figures"]) == ("secret", {"A": "1"})


def test_process_that_stops_or_has_nothing_to_serve_is_not_ready(monkeypatch):
    failing = report_of(database=Status.FAIL)
    monkeypatch.setattr(health_monitor, "has_stale_responses", lambda: False)
    assert "no responses are cached" in health_monitor.why_not_ready(failing)
    passing = report_of(database=Status.PASS)
    assert health_monitor.why_not_ready(passing) == ""
    monkeypatch.setattr(health_monitor, "is_stopping", lambda: True)
    assert "stopping" in health_monitor.why_not_ready(passing)
