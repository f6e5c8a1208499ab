"""What the environment decides, and what it may not leave open."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from resilient_site.operations.secret_key import kept_secret_key
from tests.running import ROOT

PRODUCTION = {
    "DATABASE_URL": "postgres://site:secret@db.example/site",
    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTU",
    "ALLOWED_HOSTS": "catalogue.example",
}


once = pytest.mark.once  # a process of its own, which knows no database of the tests


def manage(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": os.environ["DATA_DIR"]} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_this_run_is_on_the_database_that_was_asked_for():
    asked = os.environ.get("TEST_DB", "postgresql")
    assert connection.vendor == ("sqlite" if asked == "sqlite" else "postgresql")


@once
def test_the_deployment_check_is_clean_under_production_settings():
    result = manage("check", "--deploy", "--fail-level", "DEBUG", **PRODUCTION)
    assert result.returncode == 0, result.stderr
    assert "no issues" in result.stdout + result.stderr


@once
def test_production_needs_a_secret_key():
    result = manage("check", **(PRODUCTION | {"SECRET_KEY": ""}))
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert "SECRET_KEY must be set" in line


@pytest.mark.parametrize(
    "wrong",
    [
        {"DATA_DIR": "/dev/null/x"},
        {"DATABASE_URL": "nonsense"},
        {"WEB_PROCESSES": "abc"},
        {"WEB_THREADS": "0"},
        {"DEBUG": "maybe"},
    ],
    ids=lambda wrong: "".join(wrong),
)
@once
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_wrong_setting_is_told_in_one_line(wrong, command):
    result = manage(command, **wrong)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Configuration: ")


@once
@pytest.mark.parametrize("command", [["create_token", "x"], ["export_items", "-"]])
def test_a_database_that_is_away_is_told_in_one_line(command):
    url = "postgres://site@127.0.0.1:9/site"
    result = manage(*command, **(PRODUCTION | {"DATABASE_URL": url}))
    assert result.returncode == 1
    assert result.stderr.startswith("The database does not answer: ")
    assert "Traceback" not in result.stderr


@once
def test_errors_may_go_to_sentry_which_need_not_answer():
    result = manage("check", SENTRY_DSN="http://key@127.0.0.1:9/1")
    assert result.returncode == 0, result.stderr


@once
def test_the_admin_is_where_the_operator_wants_it():
    code = "from django.urls import reverse; print(reverse('admin:login'))"
    done = manage("shell", "-v0", "-c", code, ADMIN_PATH="/secret/desk/")
    assert done.stdout.strip() == "/secret/desk/login/"


def test_the_embedded_key_is_made_once_and_kept_private(tmp_path):
    key = kept_secret_key(tmp_path / "new", embedded=True)
    assert len(key) > 50
    assert kept_secret_key(tmp_path / "new", embedded=True) == key
    (file,) = (tmp_path / "new").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(ImproperlyConfigured):
        kept_secret_key(tmp_path, embedded=False)


def test_every_setting_is_documented():
    """In the table of the README and in .env.example, and nothing that is not read."""
    source = (ROOT / "resilient_site" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source))
    read |= {
        "HOST",
        "PORT",
        "ACCESS_LOG",
        "FORWARDED_ALLOW_IPS",
    }  # of `manage.py serve` and gunicorn
    example = (ROOT / ".env.example").read_text()
    table = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^#? ?([A-Z_]+)=", example, re.M)) == read
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", table, re.M)) == read


def test_every_test_is_collected():
    """A file with tests in it has a name that pytest looks for."""
    for path in Path(ROOT, "tests").rglob("*.py"):
        if re.search(r"^(async )?def test_|^class Test", path.read_text(), re.M):
            assert path.name.startswith("test_"), path
