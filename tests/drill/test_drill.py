"""The drill itself, as its users start it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.private_server import has_ended, wait_for
from tests.running import ROOT, Site, admin_token

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


@pytest.fixture
def start(tmp_path):
    """Start it in a session of its own, by which all its processes are known."""
    started = []
    site = Site(tmp_path / "data")

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.drill", "--output", str(tmp_path)]
        process = subprocess.Popen(
            [*command, *options], cwd=ROOT, env=site.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def left_behind(before: set[Path]) -> list[Path]:
    return [path for path in Path("/tmp").glob("rs-drill-*") if path not in before]


def report_of(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "report.json").read_bytes())


def test_three_faults_are_survived_and_reported(start, tmp_path):
    before = set(Path("/tmp").glob("rs-drill-*"))
    faults = ["postgres-killed", "web-killed", "overload"]
    process = start("--quick", *(f"--fault={fault}" for fault in faults))
    said, _ = process.communicate(timeout=200)
    told = report_of(tmp_path)["runs"][0]
    assert [one["name"] for one in told["results"]] == faults
    postgres, web, overload = told["results"]
    # How fast it is depends on this machine; what is true does not.
    assert postgres["during"]["reads_answered"] > 0.98, said
    assert postgres["during"]["stale"] > 0, said
    assert postgres["during"]["writes_answered"] < 0.5, said
    assert None not in (postgres["recovered_s"], web["recovered_s"]), said
    assert min(overload["measured"].values()) > 0, said
    found = {name: len(one) for name, one in told["found"].items() if name != "checked"}
    assert not any(found.values()), said
    assert told["found"]["checked"]["confirmed writes"] > 20
    assert (tmp_path / "report.html").exists()
    assert process.returncode in (0, 1)
    assert not left_behind(before)


def test_who_stops_it_leaves_nothing_behind(start, tmp_path):
    before = set(Path("/tmp").glob("rs-drill-*"))
    process = start("--fault", "redis-stopped")
    wait_for(lambda: serves(process), 90)
    started = family(process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in said
    wait_for(lambda: all(map(has_ended, started)), 30)
    assert not left_behind(before)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def serves(process: subprocess.Popen[str]) -> bool:
    ours = {child.pid for child in family(process)}
    # Of one that ends just now it has no command line.
    found = psutil.process_iter(["cmdline"])
    return any("gunicorn" in str(p.info["cmdline"]) for p in found if p.pid in ours)


def test_a_site_that_is_not_ours_is_only_loaded_and_compared(start, tmp_path):
    site = Site(tmp_path / "staging", RATE_LIMITS="off").start()
    try:
        token = admin_token()
        url = f"http://127.0.0.1:{site.port}"
        process = start("--url", url, "--token", token, "--seconds", "3")
        said, _ = process.communicate(timeout=100)
        told = report_of(tmp_path)["runs"][0]
        assert told["found"]["checked"]["confirmed writes"] > 5, said
        assert told["results"][0]["during"]["reads_answered"] == 1, said
        assert not told["found"]["wrong_answers"], said
        # What it wrote there is gone.
        assert site.get("/api/v1/items/?search=drill").json()["results"] == []
    finally:
        site.stop()


def test_what_cannot_be_is_said_in_a_line(start, tmp_path):
    objectives = tmp_path / "objectives.toml"
    objectives.write_text("[every]\nspeed = 3\n[end]\n")
    process = start("--objectives", str(objectives))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip().endswith("nothing is known of ['speed'].")
    assert "Traceback" not in said
