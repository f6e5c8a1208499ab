"""Statistics, objectives and the report, from made-up samples."""

import re

import orjson
import pytest

from tests.drill import report
from tests.drill.faults import FAULTS
from tests.drill.history import Findings, Outcome
from tests.drill.http_client import Sample
from tests.drill.objectives import FILE, Objectives, Verdict
from tests.drill.runner import Result, Run, format_result
from tests.drill.windows import Timeline, Window, percent


def samples(due: float, outcome: Outcome = Outcome.OK, kind: str = "read") -> Sample:
    return Sample(due, 0.01, kind, False, outcome, 7.0)


SAMPLES = [
    *(samples(n / 100) for n in range(98)),
    samples(0.98, Outcome.STALE),
    samples(0.99, Outcome.REJECTED),
    samples(0.995, Outcome.UNREAD),
    samples(0.5, Outcome.FAILED, "write"),
]


def test_window_counts_answered_requests():
    window = Window.of(SAMPLES)
    assert (window.reads, window.writes, window.stale) == (101, 1, 1)
    # A rejected first read is not counted.
    assert window.reads_answered == 0.99
    assert window.writes_answered == 0
    assert window.oldest_s == 7
    assert window.read_p99_ms == pytest.approx(10)
    assert window.outcomes["read: rejected, never read before"] == 1


def test_percent_is_rounded_down():
    assert [percent(1.0), percent(0.99999), percent(0.5)] == [
        "100 %",
        "99.99 %",
        "50 %",
    ]


def test_timeline_has_rates_by_half_seconds():
    timeline = Timeline.of(SAMPLES, 0.0, 1.0)
    assert timeline.at_s == [0.25, 0.75]
    assert timeline.rates["read"]["ok"] == [100, 96]
    assert timeline.latencies["write p99"] == [None, None]


def result(name: str = "redis-killed", **more: object) -> Result:
    return Result(
        name, "Redis is killed", during=Window.of(SAMPLES), recovered_s=0.5, **more
    )


def objectives_of(tmp_path, text: str) -> Objectives:
    path = tmp_path / "objectives.toml"
    path.write_text(text)
    return Objectives(path)


def test_objectives_of_a_fault_override_the_common_ones(tmp_path):
    objectives = objectives_of(
        tmp_path,
        "[every]\nreads_percent = 99.5\nrecovered_s = 1\n"
        "[fault.web-killed]\nreads_percent = 99\n[end]\nlost_writes = 0\n",
    )
    (miss,) = objectives.evaluate(result()).misses
    assert miss == "reads answered: 99 %, not at least 99.5 %"
    assert objectives.evaluate(result("web-killed")).is_kept
    never = Result("redis-killed", "", recovered_s=None)
    assert objectives.evaluate(never).misses == ["It did not recover."]
    lost = Findings(lost_writes=["one"])
    assert objectives.evaluate_end(lost).misses == ["lost writes: 1, not 0"]


def test_unknown_objectives_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="reads_per_cent"):
        objectives_of(tmp_path, "[every]\nreads_per_cent = 99\n[end]\n")


def test_supplied_objectives_name_existing_faults():
    assert Objectives(FILE).faults.keys() <= {fault.name for fault in FAULTS}


def make_run(name: str, **more: object) -> Run:
    results = [
        result(started=0.2, ended=0.4, measured={"capacity": 80.0, "goodput": 0.9}),
        Result("disk-full", "The disk is full", not_run="it <cannot> be"),
    ]
    timeline = Timeline.of(SAMPLES, 0.0, 1.0)
    found = Findings(checked={"confirmed writes": 3}, **more)
    return Run(name, results, ["no nginx"], found, Verdict(), 1.0, timeline)


@pytest.mark.parametrize("number", [1, 2])
def test_page_is_self_contained(tmp_path, number):
    runs = [make_run("ours"), make_run("plain", lost_writes=["it & that"])][:number]
    page = report.write(tmp_path, runs, Objectives()).read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page)
    assert page.count("<svg") == number
    assert "it &lt;cannot&gt; be" in page
    assert ("it &amp; that" in page) == (number == 2)
    report_json = orjson.loads((tmp_path / "report.json").read_bytes())
    assert report_json["passed"] is True
    assert [run["name"] for run in report_json["runs"]] == ["ours", "plain"][:number]
    assert report_json["runs"][0]["results"][0]["during"]["reads_answered"] == 0.99


def test_result_is_formatted_for_the_terminal():
    assert "reads  99.00%" in format_result(result())
    assert "not run: it <cannot> be" in format_result(make_run("ours").results[1])
