"""Metrics of several processes in one directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from resilient_site.observability import multiprocess
from tests.running import ROOT

pytestmark = pytest.mark.once

COUNT = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = {directory!r}
os.environ["DATA_DIR"] = os.path.dirname({directory!r})
import django
django.setup()
from resilient_site.observability import metrics
metrics.requests["/items/", "GET", 200, "hit"] += 2
metrics.REQUEST_DURATION.labels("/items/", "GET", "2xx").observe(0.004)
metrics.ADMISSION_LIMIT.set(7)
metrics.LARGEST_RESIDENT_BYTES.labels("web").set({size})
page = metrics.render().decode()
print(page)
"""
ENV = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "resilient_site.settings"}


def page_of_process(directory: Path, size: int) -> str:
    """Return the page that a process renders, which counts two requests itself."""
    return subprocess.run(
        [sys.executable, "-c", COUNT.format(directory=str(directory), size=size)],
        cwd=ROOT, env=ENV, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(multiprocess.VARIABLE, str(tmp_path / "shared"))
    multiprocess.share(tmp_path)
    return tmp_path / "shared"


def test_counters_outlive_their_process_and_gauges_do_not(directory):
    # This process is alive all the time.
    MmapedDict(str(directory / f"gauge_livemax_{os.getpid()}.db")).close()
    requests = 'requests_total{edge="hit",method="GET",route="/items/",status="200"} '
    assert f"{requests}2.0" in page_of_process(directory, 10)
    page = page_of_process(directory, 30)
    assert f"{requests}4.0" in page
    labels = 'method="GET",route="/items/",status_class="2xx"'
    name = "resilient_site_request_duration_seconds"
    assert f'{name}_bucket{{le="0.0025",{labels}}} 0.0' in page
    assert f'{name}_bucket{{le="0.005",{labels}}} 2.0' in page
    assert f"{name}_count{{{labels}}} 2.0" in page
    assert "resilient_site_admission_limit 7.0" in page
    assert 'largest_resident_bytes{role="web"} 30.0' in page
    multiprocess.remove_dead()
    left = {file.name.rpartition("_")[0] for file in directory.iterdir()}
    assert left == {"counter", "histogram", "gauge_livemax"}


def test_last_process_that_ends_empties_the_directory(directory):
    page_of_process(directory, 10)
    assert not list(directory.iterdir())


def test_start_empties_the_directory_after_a_kill(directory):
    MmapedDict(str(directory / "counter_4194305.db")).close()  # above any process id
    multiprocess.remove_dead()
    assert not list(directory.iterdir())


def test_page_is_rendered_without_the_directory(directory):
    script = COUNT.format(directory=str(directory), size=10).replace(
        "page =", "import shutil; shutil.rmtree(sys.argv[1]); page ="
    )
    page = subprocess.run(
        [sys.executable, "-c", script, directory],
        cwd=ROOT, env=ENV, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "resilient_site_admission_limit 7.0" in page


def test_default_directory_is_in_memory_and_private(tmp_path, monkeypatch):
    monkeypatch.setenv(multiprocess.VARIABLE, "")
    multiprocess.share(tmp_path)
    chosen = Path(os.environ[multiprocess.VARIABLE])
    try:
        assert chosen.parent == multiprocess.SHARED_MEMORY
        assert chosen.stat().st_mode & 0o777 == 0o700
    finally:
        chosen.rmdir()


def test_other_directory_is_used_without_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocess, "SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setenv(multiprocess.VARIABLE, "")
    multiprocess.share(tmp_path)
    assert os.environ[multiprocess.VARIABLE] == str(tmp_path / "metrics")
