"""The report of the drill, from made-up samples; the drill itself: tests/faults."""

import re

import orjson
import pytest

from tests.drill import report
from tests.drill.clients import Sample
from tests.drill.faults import FAULTS
from tests.drill.history import Findings, Outcome
from tests.drill.machine_faults import MACHINE_FAULTS
from tests.drill.objectives import FILE, Objectives
from tests.drill.runner import Result, Run
from tests.drill.windows import Window, percent, rates_of

SAMPLES = [
    *(Sample(n / 100, 0.01, "read", Outcome.OK) for n in range(98)),
    Sample(0.98, 0.01, "read", Outcome.STALE, 7.0),
    Sample(0.99, 0.01, "read", Outcome.REJECTED),
    Sample(0.995, 0.01, "read", Outcome.UNREAD),
    Sample(0.5, 0.01, "write", Outcome.FAILED),
]


def test_window_counts_answered_requests():
    window = Window.from_samples(SAMPLES)
    assert (window.reads, window.writes, window.stale) == (101, 1, 1)
    # A rejected first read is not counted.
    assert (window.reads_answered, window.writes_answered) == (0.99, 0)
    assert percent(0.99999) == "99.99 %"  # rounded down
    assert window.oldest_s == 7
    assert window.read_p99_ms == pytest.approx(10)


def result(name: str = "redis-killed", **more: object) -> Result:
    return Result(
        name,
        "Redis is killed",
        during=Window.from_samples(SAMPLES),
        recovered_s=0.5,
        **more,
    )


def test_objectives_of_a_fault_override_the_common_ones(tmp_path):
    path = tmp_path / "objectives.toml"
    path.write_text(
        "[every]\nreads_percent = 99.5\nrecovered_s = 1\n"
        "[fault.web-killed]\nreads_percent = 99\n[end]\nlost_writes = 0\n",
    )
    objectives = Objectives(path)
    (miss,) = objectives.misses(result())
    assert miss == "reads answered: 99 %, not at least 99.5 %"
    assert objectives.misses(result("web-killed")) == []
    never = Result("redis-killed", "", recovered_s=None)
    assert objectives.misses(never) == ["It did not recover."]
    lost = Findings(lost_writes=["one"]).counts()
    assert objectives.misses_at_the_end(lost) == ["lost writes: 1, not 0"]
    path.write_text("[every]\nspeed = 3\n[end]\n")
    with pytest.raises(ValueError, match=r"unknown objectives \['speed'\]"):
        Objectives(path)


def test_supplied_objectives_name_existing_faults():
    known = {fault.name for fault in (*FAULTS, *MACHINE_FAULTS)}
    assert Objectives(FILE).faults.keys() <= known


def make_run(name: str, **more: object) -> Run:
    results = [
        result(started=0.2, ended=0.4, measured={"capacity": 80.0, "goodput": 0.9}),
        Result("disk-full", "The disk is full", not_run="it <cannot> be"),
    ]
    found = Findings(checked={"confirmed writes": 3}, **more)
    rates = rates_of(SAMPLES, 0.0, 1.0)
    return Run(name, results, ["no nginx"], found, [], 1.0, 80.0, rates)


def test_page_is_self_contained(tmp_path):
    runs = [make_run("ours"), make_run("plain", lost_writes=["it & that"])]
    page = report.write(tmp_path, runs, Objectives()).read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page)
    assert page.count('<svg role="img"') == 4
    assert "it &lt;cannot&gt; be" in page
    assert "it &amp; that" in page
    in_json = orjson.loads((tmp_path / "report.json").read_bytes())
    assert in_json["passed"] is True
    assert [run["name"] for run in in_json["runs"]] == ["ours", "plain"]
    assert in_json["runs"][0]["results"][0]["during"]["reads_answered"] == 0.99
    assert in_json["runs"][0]["rates"]["read"]["ok"] == [100, 96]
