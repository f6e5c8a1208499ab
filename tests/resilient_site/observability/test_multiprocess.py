"""Metrics of several processes in one directory."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from resilient_site.observability import metrics, multiprocess
from tests.running import ROOT

pytestmark = pytest.mark.once

# Two processes, one after the other, that count two requests each.
COUNT = """
import os, shutil, sys
from functools import partial
import django
django.setup()
from resilient_site.observability import metrics, multiprocess
print = partial(print, flush=True)  # before the next fork
directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
for size in (10, 30):
    if not (child := os.fork()):
        metrics.requests["/items/", "GET", 200, "hit"] += 2
        metrics.REQUEST_DURATION.labels("/items/", "GET", "2xx").observe(0.004)
        metrics.ADMISSION_LIMIT.set(7)
        metrics.LARGEST_RESIDENT_BYTES.labels("web").set(size)
        print(metrics.render().decode())
        sys.exit()
    os.waitpid(child, 0)
    print("---", *(name for name in os.listdir(directory) if f"_{child}." in name))
multiprocess.remove_dead(is_ending=True)
print("---", *os.listdir(directory))
shutil.rmtree(directory)
print(metrics.render().decode())
"""


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(multiprocess.VARIABLE, str(tmp_path / "shared"))
    multiprocess.share(tmp_path)
    return tmp_path / "shared"


def test_counters_outlive_their_process_and_gauges_do_not(directory):
    env = {name: os.environ[name] for name in ("PATH", multiprocess.VARIABLE)}
    env |= {"DATA_DIR": str(directory.parent)}
    env |= {"DJANGO_SETTINGS_MODULE": "resilient_site.settings"}
    first, second, last, alone = subprocess.run(
        [sys.executable, "-c", COUNT],
        cwd=ROOT, env=env, check=True, capture_output=True, text=True,
    ).stdout.split("---")  # fmt: skip
    requests = 'requests_total{edge="hit",method="GET",route="/items/",status="200"} '
    assert f"{requests}2.0" in first
    assert f"{requests}4.0" in second
    labels = 'method="GET",route="/items/",status_class="2xx"'
    name = "resilient_site_request_duration_seconds"
    assert f'{name}_bucket{{le="0.0025",{labels}}} 0.0' in second
    assert f'{name}_bucket{{le="0.005",{labels}}} 2.0' in second
    assert f"{name}_count{{{labels}}} 2.0" in second
    assert "resilient_site_admission_limit 7.0" in second
    assert 'largest_resident_bytes{role="web"} 30.0' in second
    left = second.splitlines()[0].split()
    assert {file.rpartition("_")[0] for file in left} == {"counter", "histogram"}
    # The last process that ends empties the directory.
    assert last.splitlines()[0].split()
    assert not alone.splitlines()[0].split()
    # A page is rendered without the directory.
    assert "resilient_site_admission_limit" in alone


def test_start_empties_the_directory_after_a_kill(directory):
    MmapedDict(str(directory / "counter_4194305.db")).close()  # above any process id
    multiprocess.remove_dead()
    assert not list(directory.iterdir())


def test_files_kept_apart_are_removed_once_their_process_has_ended(directory):
    multiprocess.keep_apart()
    apart = Path(os.environ[multiprocess.VARIABLE])
    os.environ[multiprocess.VARIABLE] = str(directory)
    for pid in (os.getpid(), 4194305):
        MmapedDict(str(apart / f"counter_{pid}.db")).close()
    assert metrics.render() == b""
    multiprocess.remove_dead()
    assert [file.name for file in apart.iterdir()] == [f"counter_{os.getpid()}.db"]


def test_directory_is_private_and_in_memory_if_that_can_be_used(tmp_path, monkeypatch):
    usable = tmp_path / "shm"
    usable.mkdir()
    # No user may create a directory in /proc.
    for shared_memory in (usable, tmp_path / "none", Path("/proc")):
        monkeypatch.setattr(multiprocess, "SHARED_MEMORY", shared_memory)
        monkeypatch.setenv(multiprocess.VARIABLE, "")
        multiprocess.share(tmp_path)
        chosen = Path(os.environ[multiprocess.VARIABLE])
        assert chosen.parent == (usable if shared_memory is usable else tmp_path)
        assert chosen.stat().st_mode & 0o777 == 0o700


def test_file_that_another_process_has_just_opened_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setenv(multiprocess.VARIABLE, str(tmp_path))
    monkeypatch.setattr(metrics, "READS_MAX", 6_000)
    file = tmp_path / "counter_1.db"
    file.touch()
    writing = threading.Timer(0.03, lambda: MmapedDict(str(file)).close())
    writing.start()
    assert metrics.render() == b""
    writing.join()
