"""The figures of several processes, added up."""

import os
import subprocess
import sys
import timeit

import orjson
import pytest

from resilient_site.edge.observing import HIT, tell_at_once
from resilient_site.metrics import counts, page, sharing
from resilient_site.metrics.families import FAMILIES, Kind
from resilient_site.metrics.sharing import clean, folder, totals

pytestmark = pytest.mark.once

RETRIES, SIZE, LARGEST = ("retries", ()), ("resident_bytes", ("web",)), (
    "largest_resident_bytes", ("web",),
)  # fmt: skip


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path, monkeypatch) -> None:
    settings.DATA_DIR = tmp_path
    folder().mkdir()
    monkeypatch.setattr(counts, "_counted", counts._counted.copy())
    counts._counted.clear()
    monkeypatch.setattr("resilient_site.heap.resident_bytes", lambda: 10)


def tell(role: str, pid: int, retries: int, size: int) -> None:
    told = [[*RETRIES, retries], [*SIZE, size], [*LARGEST, size], ["unknown", [], 1]]
    (folder() / f"{role}-{pid}.json").write_bytes(orjson.dumps(told))


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(20)
    return process.pid


def test_processes_are_added_up_and_of_some_figures_the_largest_counts():
    counts.count("retries")
    tell("web", os.getppid(), 5, 30)
    found = totals("web")
    assert (found[RETRIES], found[SIZE], found[LARGEST]) == (6, 40, 30)


def test_what_a_process_counted_outlives_it_and_what_it_held_does_not():
    for retries in (5, 7):
        tell("web", ended_pid(), retries, 30)
        found = totals("web")
        assert (found[SIZE], found[LARGEST]) == (10, 10)
    assert found[RETRIES] == 12 == totals("web")[RETRIES]
    assert {file.name for file in folder().iterdir()} == {"web-ended.json", "lock"}


def test_another_start_of_a_role_forgets_what_it_told_before():
    tell("web", ended_pid(), 5, 30)
    tell("compute", ended_pid(), 7, 30)
    clean("web")
    assert totals("web")[RETRIES] == 7


def test_what_cannot_be_read_is_left_out():
    tell("web", os.getppid(), 5, 30)
    (folder() / "web-1.json").write_text("{")
    assert totals("web")[RETRIES] == 5


def test_without_room_on_the_disk_a_process_tells_its_own(settings, tmp_path):
    counts.count("retries")
    settings.DATA_DIR = tmp_path / "missing"
    assert totals("web")[RETRIES] == 1
    sharing.Teller().stop()


def test_the_page_has_every_family_and_whole_histograms():
    counts.durations["/items/", "GET", "2xx"].note(0.004)
    text = page.render("web").decode()
    for name, family in FAMILIES.items():
        kind = "gauge" if family.kind is Kind.HIGHEST else family.kind
        suffix = "_total" if kind == "counter" else ""
        assert f"# TYPE resilient_site_{name}{suffix} {kind}\n" in text
    labels = 'method="GET",route="/items/",status_class="2xx"'
    name = "resilient_site_request_duration_seconds"
    assert f'{name}_bucket{{le="0.0025",{labels}}} 0.0' in text
    assert f'{name}_bucket{{le="0.005",{labels}}} 1.0' in text
    assert f"{name}_count{{{labels}}} 1.0" in text


def test_to_count_costs_little():
    """Of the fastest of many turns: others use this machine too."""
    scope = {"path": "/api/v1/items/bolt", "method": "GET"}
    turns = timeit.repeat(
        lambda: tell_at_once(scope, 200, HIT, 1), number=1000, repeat=50
    )
    assert min(turns) / 1000 < 5e-6
