"""The drill, run as a command."""

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
    """Start a drill in its own session, which identifies its processes."""
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


def read_report(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "report.json").read_bytes())


def test_drill_reports_three_faults(start, tmp_path):
    before = set(Path("/tmp").glob("rs-drill-*"))
    faults = ["postgres-killed", "web-killed", "overload"]
    process = start("--quick", *(f"--fault={fault}" for fault in faults))
    output, _ = process.communicate(timeout=200)
    run = read_report(tmp_path)["runs"][0]
    assert [one["name"] for one in run["results"]] == faults
    postgres, web, overload = run["results"]
    # Latencies depend on the machine; correctness does not.
    assert postgres["during"]["reads_answered"] > 0.98, output
    assert postgres["during"]["stale"] > 0, output
    assert postgres["during"]["writes_answered"] < 0.5, output
    assert None not in (postgres["recovered_s"], web["recovered_s"]), output
    assert min(overload["measured"].values()) > 0, output
    found = {name: len(one) for name, one in run["found"].items() if name != "checked"}
    assert not any(found.values()), output
    assert run["found"]["checked"]["confirmed writes"] > 20
    assert (tmp_path / "report.html").exists()
    assert process.returncode in (0, 1)
    assert not left_behind(before)


def test_interrupted_drill_leaves_nothing_behind(start, tmp_path):
    before = set(Path("/tmp").glob("rs-drill-*"))
    process = start("--fault", "redis-stopped")
    wait_for(lambda: serves(process), 90)
    started = family(process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in output
    wait_for(lambda: all(map(has_ended, started)), 30)
    assert not left_behind(before)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def serves(process: subprocess.Popen[str]) -> bool:
    ours = {child.pid for child in family(process)}
    # A process that is ending has no command line.
    found = psutil.process_iter(["cmdline"])
    return any("gunicorn" in str(p.info["cmdline"]) for p in found if p.pid in ours)


def test_drill_of_a_remote_site_has_no_faults(start, tmp_path):
    site = Site(tmp_path / "staging", RATE_LIMITS="off").start()
    try:
        token = admin_token()
        url = f"http://127.0.0.1:{site.port}"
        process = start("--url", url, "--token", token, "--seconds", "3")
        output, _ = process.communicate(timeout=100)
        run = read_report(tmp_path)["runs"][0]
        assert run["found"]["checked"]["confirmed writes"] > 5, output
        assert run["results"][0]["during"]["reads_answered"] == 1, output
        assert not run["found"]["wrong_answers"], output
        # Its items were deleted.
        assert site.get("/api/v1/items/?search=drill").json()["results"] == []
    finally:
        site.stop()


def test_bad_objectives_are_reported_in_a_line(start, tmp_path):
    objectives = tmp_path / "objectives.toml"
    objectives.write_text("[every]\nspeed = 3\n[end]\n")
    process = start("--objectives", str(objectives))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.strip().endswith("unknown objectives ['speed'].")
    assert "Traceback" not in output
