"""Units, images, compose files and instructions name what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.running import ROOT
from tests.services_plugin import SETTINGS

pytestmark = pytest.mark.once

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
CURRENT = "/opt/resilient-site/current"
FOREIGN = {"DJANGO_SETTINGS_MODULE", "PWD"}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze"
)


def analyze(*args: str) -> str:
    command = ["systemd-analyze", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_sandboxed(unit: Path):
    options = "--offline=true", "--no-pager", "--threshold=20"
    found = analyze("security", *options, str(unit))
    assert " OK " in found.splitlines()[-1]


@needs_systemd
def test_units_are_valid(tmp_path: Path):
    for path in (DEPLOY / "systemd").glob("resilient-site-*"):
        text = path.read_text().replace(f"{CURRENT}/.venv/bin/python", "/bin/true")
        (tmp_path / path.name.replace("@.", "@1.")).write_text(text)
    assert analyze("verify", *map(str, tmp_path.iterdir())) == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_names_existing_files(unit: Path):
    text = unit.read_text()
    named = re.findall(rf"{CURRENT}/(\S+)", text)
    assert all((ROOT / name).exists() for name in named if ".venv" not in name)
    assert set(re.findall(r"^Environment=(\w+)", text, re.M)) <= FOREIGN
    assert int(re.findall(r"^TimeoutS\w+=(\d+)", text, re.M)[0]) >= 1


def test_environment_has_known_settings():
    text = (DEPLOY / "systemd" / "environment").read_text()
    named = set(re.findall(r"^(?:# )?([A-Z_]+)=", text, re.M))
    assert {"SECRET_KEY", "DATABASE_URL"} <= named <= SETTINGS


def test_manage_sh_has_the_environment_of_the_units(tmp_path: Path):
    """Values that a shell would expand included."""
    values = {
        "DATABASE_URL": "postgres://site:a$b`c@db/site?sslmode=require&connect_timeout=2",
        "EVENTS_URL": "amqp://one;amqp://two",
        "RELEASE": "two words # and a sign",
        "ALLOWED_HOSTS": "*",
    }
    lines = [f"{name}={value}" for name, value in values.items()]
    text = "\n".join(["# A comment: it's one", "", *lines, 'SECRET_KEY="quoted"'])
    (tmp_path / "environment").write_text(text)
    python = tmp_path / "current" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho $#\nexec env -0\n")
    runuser = tmp_path / "runuser"
    runuser.write_text('#!/bin/sh\nshift 3\nexec "$@"\n')
    for program in (python, runuser):
        program.chmod(0o755)
    script = (DEPLOY / "manage.sh").read_text()
    for there, here in ((CURRENT, "current"), ("/etc/resilient-site", ".")):
        script = script.replace(there, str(tmp_path / here))
    done = subprocess.run(
        ["sh", "-c", script, "manage.sh", "migrate", "two words"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    number, _, environment = done.stdout.partition("\n")
    assert (number, done.stderr) == ("3", "")
    found = dict(line.split("=", 1) for line in environment.split("\0") if line)
    assert found.items() >= (values | {"SECRET_KEY": "quoted"}).items()


def test_image_is_made_of_existing_files():
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--).+", text, re.M)]
    names = {name for line in copied for name in line} - {"$LOCK"}
    # What LOCK may be.
    names |= {"requirements.txt", "requirements-otel.txt", "requirements-s3.txt"}
    assert all((ROOT / name).exists() for name in names)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert set(re.findall(r"^!(\S+)", ignored, re.M)) == names
    stages = text.split("\nFROM ")
    assert "\nUSER 10001:10001\n" in stages[-1]
    assert "--require-hashes" in stages[1]
    # No package of the site is missing.
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} <= names


def test_compose_names_existing_files_and_settings():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        assert service["mem_limit"]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            is_file = source.startswith(".") and (DEPLOY / source).exists()
            assert is_file or source in compose["volumes"]
        assert set(service.get("depends_on", ())) <= services.keys()
    for name in ("web1", "web2", "compute"):
        assert services[name]["read_only"]
        assert services[name]["environment"].keys() <= SETTINGS
    upstream = (DEPLOY / "compose" / "machine" / "upstream.conf").read_text()
    assert re.findall(r"server (\w+):8000 ", upstream) == ["web1", "web2"]
    assert FOREIGN.isdisjoint(services["web1"]["environment"])


def test_instructions_name_existing_files():
    text = (DEPLOY / "README.md").read_text()
    commands = "\n".join(re.findall(r"^    (.*)", text, re.M))
    done = subprocess.run(["sh", "-n"], input=commands, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    named = set(re.findall(r"\bdeploy/[\w./-]*[\w-]", commands))
    assert len(named) >= 5
    assert all(list(ROOT.glob(f"{name}*")) for name in named)
    units = set(re.findall(r"resilient-site-[\w-]+", commands))
    assert units <= {path.name.split(".")[0].rstrip("@") for path in UNITS}


def test_runbook_has_each_alert_in_order():
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    sections = re.findall(r"^## (\w+)$", (DEPLOY / "runbook.md").read_text(), re.M)
    assert sections == alerts
