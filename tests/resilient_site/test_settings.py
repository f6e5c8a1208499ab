"""Settings from the environment, and how a wrong one is reported."""

import os
import re
import secrets
import stat
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from resilient_site.operations.secret_key import check_secret_key, load_secret_key
from tests.running import ROOT

PRODUCTION = {
    "DATABASE_URL": "postgres://site:secret@db.example/site",
    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTU",
    "ALLOWED_HOSTS": "catalogue.example",
}


pytestmark = pytest.mark.once


def manage(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": os.environ["DATA_DIR"]} | env,
        capture_output=True,
        text=True,
        timeout=150,
    )


def test_deployment_check_passes_with_production_settings():
    # Sentry may be unreachable.
    env = PRODUCTION | {"SENTRY_DSN": "http://key@127.0.0.1:9/1"}
    result = manage("check", "--deploy", "--fail-level", "DEBUG", **env)
    assert result.returncode == 0, result.stderr
    assert "no issues" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("command", "wrong", "text"),
    [
        ("check", {"DATA_DIR": "/dev/null/x"}, "/dev/null/x"),
        ("check", {"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
        ("check", PRODUCTION | {"DATABASE_REPLICA_URLS": "x"}, "DATABASE_REPLICA_URLS"),
        (
            "check",
            {"DATABASE_REPLICA_URLS": "postgres://site@db2/site"},
            "of a Postgre",
        ),
        ("check", {"DEBUG": "maybe"}, "DEBUG"),
        ("check", {"SECRET_KEY_FILE": "/nowhere"}, "SECRET_KEY_FILE"),
        ("check", {"REDIS_URL": "sentinel://one"}, "REDIS_URL"),
        ("check", {"FILES_URL": "ftp://one"}, "FILES_URL"),
        ("check", PRODUCTION | {"SECRET_KEY": ""}, "SECRET_KEY must be set"),
        ("check", PRODUCTION | {"SECRET_KEY": "change-me"}, "SECRET_KEY can be guess"),
        ("serve", {"WEB_THREADS": "0"}, "WEB_THREADS"),
    ],
    ids=[
        "folder",
        "url",
        "replica",
        "replica-of-none",
        "boolean",
        "file",
        "sentinels",
        "storage",
        "secret",
        "guessable",
        "number",
    ],
)
def test_wrong_setting_is_reported_in_one_line(command, wrong, text):
    result = manage(command, **wrong)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Configuration: ")
    assert text in line


def test_settings_are_read_from_the_files_that_are_named(tmp_path):
    of_files = {**PRODUCTION, "DATABASE_REPLICA_URLS": "postgres://a/x, postgres://b/x"}
    for name, value in of_files.items():
        (tmp_path / name).write_text(f"{value}\n")
    script = """
from django.conf import settings
print(settings.ALLOWED_HOSTS, [one["HOST"] for one in settings.DATABASES.values()])
"""
    env = {f"{name}_FILE": str(tmp_path / name) for name in of_files}
    done = manage("shell", "-v0", "-c", script, **env)
    expected = "['catalogue.example'] ['db.example', 'a', 'b']"
    assert done.stdout.strip() == expected, done


def test_unavailable_database_is_reported_in_one_line():
    url = "postgres://site@127.0.0.1:9/site"
    result = manage("export_items", "-", **(PRODUCTION | {"DATABASE_URL": url}))
    assert result.returncode == 1
    assert result.stderr.startswith("The database does not answer: ")
    assert "Traceback" not in result.stderr


def test_embedded_default_imports_no_optional_library_and_takes_an_admin_path():
    """The API of OpenTelemetry may be: libraries import it where it is installed."""
    script = """
import sys, resilient_site.asgi, compute.pool.worker_process
from django.core.cache import caches
from django.urls import reverse
assert [cache.set("a", 1) for cache in caches.all()]
optional = "sentry_sdk", "redis", "django_redis", "celery", "opentelemetry.sdk", \\
    "opentelemetry.exporter", "opentelemetry.instrumentation", "boto", "storages"
print([name for name in sys.modules if name.startswith(optional)])
print(reverse("admin:login"))
from django.conf import settings
print(settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME)
"""
    env = {"ADMIN_PATH": "/secret/desk/", "HTTPS": "1"}
    done = manage("shell", "-v0", "-c", script, **env)
    cookies = "__Host-sessionid __Host-csrftoken"
    assert done.stdout.splitlines() == ["[]", "/secret/desk/login/", cookies], done


def test_embedded_secret_key_is_created_once_and_private(tmp_path):
    key = load_secret_key(tmp_path / "new", embedded=True)
    assert len(key) > 50
    assert load_secret_key(tmp_path / "new", embedded=True) == key
    (file,) = (tmp_path / "new").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(ImproperlyConfigured):
        load_secret_key(tmp_path, embedded=False)


@pytest.mark.parametrize(
    "key",
    [
        "change-me", "x" * 50, "0123456" * 9, "short-0123456789-0123456789-012",
        "django-insecure-0123456789-0123456789-0123456789", "CHANGEME" * 8,
        "please-change-this-to-something-else-42", "a-long-random-text-0123456789-abc",
    ],
)  # fmt: skip
def test_guessable_secret_key_is_refused(key):
    with pytest.raises(ImproperlyConfigured):
        check_secret_key(key)


def test_random_secret_key_is_taken():
    for key in (secrets.token_urlsafe(50), secrets.token_hex(16)):
        assert check_secret_key(key) == key


def test_env_example_names_every_setting():
    source = (ROOT / "resilient_site" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source))
    # Read by `manage.py serve`, by gunicorn, and by prometheus_client.
    read |= {"HOST", "PORT", "FORWARDED_ALLOW_IPS", "PROMETHEUS_MULTIPROC_DIR"}
    example = (ROOT / ".env.example").read_text()
    assert set(re.findall(r"^# ([A-Z_]+)=", example, re.M)) == read
