"""Figures, objectives and the report, from answers that are made up."""

import re

import orjson
import pytest

from tests.drill import report
from tests.drill.asking import Seen
from tests.drill.conducting import Result, line_of
from tests.drill.faults import FAULTS
from tests.drill.knowledge import Found, Outcome
from tests.drill.objectives import FILE, Objectives, Verdict
from tests.drill.runs import Run
from tests.drill.windows import Timeline, Window, percent


def seen(due: float, outcome: Outcome = Outcome.OK, kind: str = "read") -> Seen:
    return Seen(due, 0.01, kind, False, outcome, 7.0)


SEEN = [
    *(seen(n / 100) for n in range(98)),
    seen(0.98, Outcome.STALE),
    seen(0.99, Outcome.REFUSED),
    seen(0.995, Outcome.UNREAD),
    seen(0.5, Outcome.FAILED, "write"),
]


def test_a_window_tells_what_was_answered():
    window = Window.of(SEEN)
    assert (window.reads, window.writes, window.stale) == (101, 1, 1)
    # What nobody was promised is not counted.
    assert window.reads_answered == 0.99
    assert window.writes_answered == 0
    assert window.oldest_s == 7
    assert window.read_p99_ms == pytest.approx(10)
    assert window.outcomes["read: refused, and never read before"] == 1


def test_only_all_is_a_hundred_percent():
    assert [percent(1.0), percent(0.99999), percent(0.5)] == [
        "100 %",
        "99.99 %",
        "50 %",
    ]


def test_a_timeline_has_rates_by_half_seconds():
    timeline = Timeline.of(SEEN, 0.0, 1.0)
    assert timeline.at_s == [0.25, 0.75]
    assert timeline.rates["read"]["ok"] == [100, 96]
    assert timeline.latencies["write p99"] == [None, None]


def result(name: str = "redis-killed", **more: object) -> Result:
    return Result(
        name, "Redis is killed", during=Window.of(SEEN), recovered_s=0.5, **more
    )


def objectives_of(tmp_path, text: str) -> Objectives:
    path = tmp_path / "objectives.toml"
    path.write_text(text)
    return Objectives(path)


def test_objectives_are_those_of_every_fault_but_for_what_is_its_own(tmp_path):
    objectives = objectives_of(
        tmp_path,
        "[every]\nreads_percent = 99.5\nrecovered_s = 1\n"
        "[fault.web-killed]\nreads_percent = 99\n[end]\nlost_writes = 0\n",
    )
    (miss,) = objectives.judge(result()).misses
    assert miss == "reads answered: 99 %, not at least 99.5 %"
    assert objectives.judge(result("web-killed")).is_kept
    never = Result("redis-killed", "", recovered_s=None)
    assert objectives.judge(never).misses == ["It was not well again."]
    lost = Found(lost_writes=["one"])
    assert objectives.judge_end(lost).misses == ["lost writes: 1, not 0"]


def test_objectives_that_nobody_knows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="reads_per_cent"):
        objectives_of(tmp_path, "[every]\nreads_per_cent = 99\n[end]\n")


def test_the_objectives_that_come_with_it_are_of_faults_that_there_are():
    assert Objectives(FILE).faults.keys() <= {fault.name for fault in FAULTS}


def make_run(name: str, **more: object) -> Run:
    results = [
        result(began=0.2, ended=0.4, measured={"capacity": 80.0, "goodput": 0.9}),
        Result("disk-full", "The disk is full", not_run="it <cannot> be"),
    ]
    timeline = Timeline.of(SEEN, 0.0, 1.0)
    found = Found(checked={"confirmed writes": 3}, **more)
    return Run(name, results, ["no nginx"], found, Verdict(), 1.0, timeline)


@pytest.mark.parametrize("number", [1, 2])
def test_the_page_is_complete_in_itself(tmp_path, number):
    runs = [make_run("ours"), make_run("plain", lost_writes=["it & that"])][:number]
    page = report.write(tmp_path, runs, Objectives()).read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page)
    assert page.count("<svg") == number
    assert "it &lt;cannot&gt; be" in page
    assert ("it &amp; that" in page) == (number == 2)
    told = orjson.loads((tmp_path / "report.json").read_bytes())
    assert told["passed"] is True
    assert [run["name"] for run in told["runs"]] == ["ours", "plain"][:number]
    assert told["runs"][0]["results"][0]["during"]["reads_answered"] == 0.99


def test_a_line_for_the_terminal():
    assert "reads  99.00%" in line_of(result())
    assert "not run: it <cannot> be" in line_of(make_run("ours").results[1])
