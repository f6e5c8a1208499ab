"""The benchmarks: what the load generator counts, the report, the command."""

import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from http.server import ThreadingHTTPServer
from time import sleep
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from tests.load import load_generator
from tests.load.bench import comparing, picture, report
from tests.load.bench.command import run
from tests.load.bench.measuring import QUICK, Bench, in_turns
from tests.load.bench.peers import BARE, OURS, Peer, Running, running
from tests.load.bench.results import (
    RATIO,
    Curves,
    Distribution,
    Goal,
    Missing,
    Piece,
    Report,
    Row,
    Section,
    Table,
)
from tests.load.bench.sections import SECTIONS
from tests.load.request_template import RequestTemplate
from tests.stub_server import Handler, serving

pytestmark = pytest.mark.once

# --- the load generator


class Counting(Handler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        with self.server.gate:
            if not self.server.requests:
                sleep(self.server.stall_s)
            self.server.requests.append((self.command, self.path, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET


def counting(
    status: int = 200, stall_s: float = 0
) -> AbstractContextManager[ThreadingHTTPServer]:
    """Serve with this status; the first response comes after so many seconds."""
    state = {"status": status, "stall_s": stall_s, "requests": []}
    return serving(Counting, gate=threading.Lock(), **state)


def template(server: ThreadingHTTPServer, path: str = "/1", **more) -> RequestTemplate:
    return RequestTemplate(server.server_address[1], path, **more)


@pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk")
def test_wrk_and_python_send_the_same_requests():
    request = {"path": "/{n}", "method": "PUT", "body": '{"name": "é \\"{count}\\""}'}
    for measure in (load_generator.rate, load_generator.rate_by_python):
        with counting() as server:
            assert measure(template(server, **request), 0.2) > 1
        for method, path, body in server.requests:
            assert method == "PUT"
            assert 1 <= int(path.removeprefix("/")) <= 1000
            assert re.fullmatch(r'\{"name": "é \\"\d+\\""\}', body)


def test_rejected_requests_are_no_rate_and_infinitely_late():
    with counting(status=503) as server:
        with pytest.raises(RuntimeError, match="0 of"):
            load_generator.rate_by_python(template(server), 0.2)
        took = load_generator.latencies(template(server), 50, 0.2)
    assert set(took) == {math.inf}


def test_latency_includes_the_wait_of_requests_that_were_due():
    with counting(stall_s=0.5) as server:
        took = load_generator.latencies(template(server), 100, 0.4)
    assert len(took) > 20
    # Each was due at another moment of the half second, and none answered before it.
    assert max(took) > 450
    assert sum(ms > 80 for ms in took) > len(took) / 2


# --- the report


def test_rounds_alternate_in_order():
    order: list[str] = []
    values = in_turns(2, {name: lambda n=name: order.append(n) for name in "ab"})
    assert order == ["b", "a", "a", "b"]
    assert list(values) == ["a", "b"]


def test_report_has_goals_and_values():
    waits = [*range(1, 100), math.inf]
    pieces = [
        Table("Reads", "a second", [Row("us", [90, 100, 120])]),
        Table("Reads", RATIO, [Row("us to <them>", [2, 4, 3.5], Goal("≥", 3))]),
        Distribution("Waits", "ms", [Row("us", waits, Goal("<", 50, "p99"))]),
        Curves("Costs", "items", "ms", {"us": {10: [1, 2, 3], 1000: [4]}}),
        Missing("nginx", "it is not installed"),
    ]
    section = Section("Reading", pieces, "0.5, 0.4, 0.3", 12)
    results = Report({"processor": "a fast one"}, {"reads": section})
    markdown = report.as_markdown(results)
    assert "| Reads: us to <them> | ≥ 3 | 3.50 | 2.00 – 4.00 | met |" in markdown
    late = "| Waits: us | p99 < 50 ms | 99.00 ms | 50.00 – ∞ | missed by 98.0% |"
    assert late in markdown
    assert "| us | 90.00 | 100 | 120 |" in markdown
    assert "| us | 2.00 (1.00 – 3.00) | 4.00 |" in markdown
    assert "- nginx: it is not installed" in markdown


def test_report_begins_with_a_picture_of_the_rates():
    rates = [Row(OURS, [1000, 3000, 2000]), Row("R&D", [500]), Row(BARE, [4000])]
    pieces = [
        Table("GET", "responses a second", rates),
        Table("Alone", "responses a second", rates[:1]),
        Table("GET", RATIO, [Row("ours to theirs", [4])]),
    ]
    results = Report({}, {"reads": Section("Reading", pieces)})
    drawn = ElementTree.fromstring(picture.draw(results))
    bars = [one for one in drawn.iter() if one.tag.endswith("rect")][1:]
    widths = [int(bar.attrib["width"]) for bar in bars]
    assert [round(width / widths[2], 2) for width in widths] == [0.5, 0.12, 1]
    texts = [one.text for one in drawn.iter() if one.tag.endswith("text")]
    assert texts == ["GET", OURS, "2,000", "R&D", "500", BARE, "4,000"]
    assert "(report.svg)" in report.as_markdown(results).partition("## Goals")[0]


# --- the command


def test_section_is_measured_until_it_fails(monkeypatch):
    def measure(bench: Bench) -> Iterator[Piece]:
        with running(bench.testbed, Running.start_bare) as peers:
            yield comparing.latencies(bench, "GET", peers, Peer.read)
        raise LookupError("There is no Celery.")

    section = SimpleNamespace(TITLE="Reading", measure=measure)
    monkeypatch.setitem(SECTIONS, "reads", section)
    results = Report({})
    assert run(results, replace(QUICK, turn_s=0.5), ["reads"]) is False
    waits, missing = results.sections["reads"].pieces
    assert waits.rows[0].name == BARE
    assert waits.summarize(waits.rows[0])["p50"] > 0
    assert missing == Missing("Reading", "There is no Celery.")


def test_command_starts_where_django_is_not_set_up():
    command = [sys.executable, "-m", "tests.load.bench", "--help"]
    assert b"--only" in subprocess.run(command, capture_output=True, check=True).stdout
