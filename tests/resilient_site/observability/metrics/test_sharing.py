"""The figures of several processes, added up."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import orjson
import pytest

from resilient_site.observability.metrics import counts, page, sharing
from resilient_site.observability.metrics.counts import BOUNDS
from resilient_site.observability.metrics.families import FAMILIES, Kind
from resilient_site.observability.metrics.sharing import Teller, clean, folder, totals
from tests.running import ROOT

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
    monkeypatch.setattr(
        "resilient_site.observability.memory_usage.resident_bytes", lambda: 10
    )


type Tell = Callable[..., Callable[[], None]]


@pytest.fixture
def tell() -> Iterator[Tell]:
    """Tell as another process would; what it returns ends that one."""
    with ExitStack() as running:

        def begin(told: int) -> Callable[[], None]:
            ending = ExitStack()
            ending.callback(os.close, told)
            return running.enter_context(ending).close

        def tell(role: str, retries: int, size: int = 30) -> Callable[[], None]:
            told = [[*RETRIES, retries], [*SIZE, size], [*LARGEST, size]]
            path = folder() / f"{role}-{uuid4().hex}.json"
            return begin(sharing._write(path, told))

        yield tell


def test_processes_are_added_up_and_of_some_figures_the_largest_counts(tell):
    counts.count("retries")
    tell("web", 5)
    found = totals("web")
    assert (found[RETRIES], found[SIZE], found[LARGEST]) == (6, 40, 30)


def test_what_a_process_counted_outlives_it_and_what_it_held_does_not(tell):
    for retries in (5, 7):
        tell("web", retries)()
        found = totals("web")
        assert (found[SIZE], found[LARGEST]) == (10, 10)
    assert found[RETRIES] == 12 == totals("web")[RETRIES]
    assert {file.name for file in folder().iterdir()} == {"web-ended.json", "lock"}


def test_a_process_tells_more_and_more_and_is_counted_once(tell):
    other = Teller()
    other.start("web")
    for number in range(3):
        counts.count("retries")
        other.write()
        assert totals("compute")[RETRIES] == 2 * (number + 1)
    other.stop()
    assert len(list(folder().glob("web-*.json"))) == 1
    assert other._told is not None
    os.close(other._told)
    assert totals("compute")[RETRIES] == 6


NUMBERED = """
import sys, time
from pathlib import Path
from resilient_site.observability.metrics import sharing
told = sharing._write(Path(sys.argv[1]), [["retries", [], 5]])
print("told", flush=True)
time.sleep(60)
"""


def test_a_process_that_is_known_by_no_number_lives(tell):
    """As in a container beside this one."""
    path = folder() / "web-4194305.json"  # larger than any
    process = subprocess.Popen(
        [sys.executable, "manage.py", "shell", "-v0", "-c", NUMBERED.replace(
            "sys.argv[1]", repr(str(path))
        )],
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"told\n"
        assert totals("web")[RETRIES] == totals("web")[RETRIES] == 5
        assert path.exists()
        process.kill()
    assert totals("web")[RETRIES] == totals("web")[RETRIES] == 5
    assert not path.exists()


def test_a_role_may_be_forgotten(tell):
    tell("web", 5)()
    tell("compute", 7)()
    clean("web")
    assert totals("web")[RETRIES] == 7


def test_what_another_release_meant_is_left_out(tell):
    told = [
        ["requests", ["/items/"], 1],  # has more labels now
        ["retries", [], [1, 2]],
        ["job_duration_seconds", ["report"], [1] * len(BOUNDS)],
        ["unknown", [], 1],
        [*RETRIES, 5],
    ]
    (folder() / "web-ended.json").write_bytes(orjson.dumps(told))
    assert totals("web")[RETRIES] == 5
    assert b"resilient_site_retries_total 5.0" in page.render("web")


def test_what_cannot_be_read_is_left_out(tell):
    tell("web", 5)
    (folder() / "web-1.json").write_text("{")
    assert totals("web")[RETRIES] == 5


def test_without_room_on_the_disk_a_process_tells_its_own(settings, tmp_path):
    counts.count("retries")
    settings.DATA_DIR = tmp_path / "missing"
    assert totals("web")[RETRIES] == 1
    sharing.Teller().stop()


def test_the_page_has_every_family_and_whole_histograms():
    counts.durations["/asked/once/", "GET", "2xx"].note(0.004)
    text = page.render("web").decode()
    for name, family in FAMILIES.items():
        kind = "gauge" if family.kind is Kind.HIGHEST else family.kind
        suffix = "_total" if kind == "counter" else ""
        assert f"# TYPE resilient_site_{name}{suffix} {kind}\n" in text
    labels = 'method="GET",route="/asked/once/",status_class="2xx"'
    name = "resilient_site_request_duration_seconds"
    assert f'{name}_bucket{{le="0.0025",{labels}}} 0.0' in text
    assert f'{name}_bucket{{le="0.005",{labels}}} 1.0' in text
    assert f"{name}_count{{{labels}}} 1.0" in text
