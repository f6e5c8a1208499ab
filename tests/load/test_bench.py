"""The benchmarks' report, and how they run, end and count."""

import json
import math
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.load.bench import data, grids, markdown, page
from tests.load.bench.measuring import in_turns
from tests.load.bench.results import (
    RATIO,
    Curves,
    Distribution,
    Goal,
    Missing,
    Report,
    Row,
    Section,
    Table,
    percentile,
    ratios,
)
from tests.private_server import has_ended, wait_for
from tests.running import ROOT

pytestmark = pytest.mark.once

BENCH = (sys.executable, "-m", "tests.load.bench", "--quick", "--rounds", "1")


@pytest.fixture
def report() -> Report:
    pieces = [
        Table("Reads", "a second", [Row("us", [90, 100, 120])], is_drawn=True),
        Table("Reads", RATIO, [Row("us to <them>", [2, 4, 3.5], Goal("≥", 3))]),
        Distribution(
            "Waits",
            "ms",
            [Row("us", [*range(1, 100), math.inf], Goal("<", 50, "p99"))],
            is_drawn=True,
        ),
        Curves("Costs", "items", "ms", {"us": {10: [1, 2, 3], 1000: [4]}}, is_log=True),
        Missing("nginx", "it is not installed"),
    ]
    section = Section("Reading", pieces, "0.5, 0.4, 0.3", 12.3)
    return Report({"processor": "a fast one"}, ["In turns."], {"reads": section})


def test_ratios_are_taken_by_round():
    assert ratios([2, 9], [1, 3]) == [2, 3]


def test_rounds_alternate_in_order():
    order: list[str] = []

    def take(name: str) -> float:
        order.append(name)
        return len(order)

    values = in_turns(2, {"a": lambda: take("a"), "b": lambda: take("b")})

    assert order == ["b", "a", "a", "b"]
    assert list(values.items()) == [("a", [2, 3]), ("b", [1, 4])]


def test_percentile_is_one_of_the_values():
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7], 0.999) == 7


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal("≥", 3), 3, "met"),
        (Goal("≥", 2), 1.5, "missed by 25.0%"),
        (Goal("≤", 2), 2, "met"),
        (Goal("<", 25, "p99"), 25, "missed by 0.0%"),
        (Goal("<", 25, "p99"), math.inf, "missed by inf%"),
    ],
)
def test_goal_is_missed_beyond_a_tolerance(goal, value, verdict):
    assert grids.verdict(goal, value) == verdict


def test_markdown_has_the_goals_with_results(report):
    text = markdown.as_markdown(report)

    assert "| Reads: us to <them> | ≥ 3 | 3.50 | 2.00 – 4.00 | met |" in text
    assert (
        "| Waits: us | p99 < 50 ms | 99.00 ms | 50.00 – ∞ | missed by 98.0% |" in text
    )
    assert "| us | 90.00 | 100 | 120 |" in text
    assert "| us | 2.00 (1.00 – 3.00) | 4.00 |" in text
    assert "- nginx: it is not installed" in text


def test_markdown_tables_are_rectangular(report):
    for table in re.findall(r"(?:^\|.*\n)+", markdown.as_markdown(report), re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_json_has_all_values(report):
    report = json.loads(data.as_json(report), parse_constant=pytest.fail)

    rates, _, waits, costs, missing = report["sections"]["reads"]["measured"]
    assert rates["rows"][0]["rounds"] == [90, 100, 120]
    assert waits["rows"][0]["maximum"] is None
    assert waits["rows"][0]["percentiles"]["50.0%"] == 50
    assert costs["lines"]["us"] == {"10": [1, 2, 3], "1000": [4]}
    assert missing == {"missing": "nginx", "why": "it is not installed"}
    assert [goal["is_met"] for goal in report["goals"]] == [True, False]


def test_html_is_self_contained(report):
    text = page.as_html(report)

    assert text.count("<svg ") == 3
    assert "us to &lt;them&gt;" in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "<script" not in text


def test_plots_are_well_formed(report):
    from xml.etree import ElementTree as tree

    for picture in re.findall(r"<svg .*?</svg>", page.as_html(report), re.S):
        words = "".join(tree.fromstring(picture).itertext())
        assert "a second" in words or "ms" in words


def test_command_measures_a_section_and_writes_a_report(tmp_path):
    done = subprocess.run(
        [*BENCH, "--only", "cores", "--output", tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "this site, 1 process to 2 | ≥ 1.9 |" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["sections"]) == ["cores"]
    assert "heavy_computation" in (tmp_path / "report.md").read_text()
    assert "<svg " in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_bench_leaves_nothing_behind(tmp_path, signum):
    process = subprocess.Popen(
        [*BENCH, "--only", "reads", "--output", tmp_path],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr
    assert "reads" in process.stderr.readline()
    me = psutil.Process(process.pid)
    family = wait_for(lambda: len(found := me.children(recursive=True)) > 4 and found)
    process.send_signal(signum)
    process.send_signal(signum)

    assert process.wait(60) == 130
    process.stderr.close()
    wait_for(lambda: all(map(has_ended, family)), 10)
    assert not list(tmp_path.iterdir())
