"""`manage.py doctor` with real servers and folders."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from compute import jobs
from compute.models import Job
from compute.registry import get_task
from items.events import health
from items.events.lease import Lease
from resilient_site.operations.doctor import Level, reach
from tests.private_server import free_port

# Checks have connections of their own.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    settings.REDIS_URL = ""
    return tmp_path


def doctor(*options: str) -> tuple[str, int]:
    """Return the output and the exit code."""
    out = StringIO()
    try:
        call_command("doctor", "--no-color", *options, stdout=out)
    except SystemExit as end:
        return out.getvalue(), int(end.code or 0)
    return out.getvalue(), 0


def run_check(name: str) -> list[tuple[str, str]]:
    """Return level and text of the findings of one check."""
    output, code = doctor("--json")
    found = [json.loads(line) for line in output.splitlines()]
    assert code == any(one["level"] == "failure" for one in found)
    assert all(one["todo"] for one in found if one["level"] == "failure")
    return [(one["level"], one["what"]) for one in found if one["name"] == name]


def levels(name: str) -> set[str]:
    return {level for level, _ in run_check(name)}


@pytest.mark.once
def test_findings_are_printed_in_lines(settings):
    settings.DEBUG = True
    output, code = doctor()
    assert "ok       database" in output
    assert "failure  settings  DEBUG is on" in output
    assert "→ Unset DEBUG." in output
    assert code == 1


@pytest.mark.once
def test_silenced_system_checks_are_no_findings(settings):
    settings.EMBEDDED, settings.SECURE_HSTS_SECONDS = False, 3600
    output, _ = doctor()
    assert settings.SILENCED_SYSTEM_CHECKS
    assert not [name for name in settings.SILENCED_SYSTEM_CHECKS if name in output]


def test_database_that_answers_is_ok():
    found = run_check("database")
    assert found[0][0] == "ok"
    assert connection.display_name in found[0][1]


def test_missing_migration_is_a_failure():
    # Of a migration that others depend on, Django does not notice the lack.
    (latest,) = MigrationLoader(connection).graph.leaf_nodes("items")
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied(*latest)
    try:
        found = run_check("database")
    finally:
        recorder.record_applied(*latest)
    text = f"Migrations are not applied: 1, the first is {'.'.join(latest)}."
    assert ("failure", text) in found


@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_server_without_fsync_is_a_failure():
    # The server of the tests runs without fsync.
    words = " ".join(
        what for level, what in run_check("database") if level == "failure"
    )
    assert "fsync is off" in words


@pytest.mark.once
def test_redis_without_eviction_is_a_warning(settings, redis_server):
    settings.REDIS_URL = redis_server.url()
    assert levels("cache") == {"ok", "warning"}


@pytest.mark.once
def test_redis_that_hangs_is_a_failure(settings, redis_own):
    settings.REDIS_URL = redis_own.url()
    redis_own.pause()
    (level, what), *_ = run_check("cache")
    assert level == "failure"
    assert "Timeout" in what


@pytest.mark.once
def test_missing_data_dir_is_a_failure(settings, folder):
    settings.DATA_DIR = folder / "none"
    assert levels("folder") == {"failure"}


@pytest.mark.once
def test_low_file_limit_is_a_warning(monkeypatch):
    assert levels("machine") <= {"ok", "warning"}
    monkeypatch.setattr("resilient_site.operations.doctor.OPEN_FILES_WANTED", 10**9)
    assert levels("machine") == {"warning"}


def test_jobs_without_a_pool_are_a_failure(django_user_model):
    user = django_user_model.objects.create_user("edith")
    assert levels("jobs") == {"ok"}
    jobs.submit(task=get_task("heavy_computation"), params={}, owner=user)
    assert levels("jobs") == {"ok"}
    Job.objects.update(queued_at=timezone.now() - timedelta(minutes=1))
    assert levels("jobs") == {"ok", "failure"}


def test_full_queue_is_a_warning(settings, django_user_model):
    user = django_user_model.objects.create_user("edith")
    jobs.submit(task=get_task("heavy_computation"), params={}, owner=user)
    settings.COMPUTE_MAX_QUEUED = 1
    assert "warning" in levels("jobs")


@pytest.mark.once
def test_unreachable_broker_is_a_failure(settings):
    settings.COMPUTE_BACKEND = "celery"
    settings.BROKER_URL = f"amqp://guest:secret@localhost:{free_port()}//"
    found = dict(run_check("jobs"))
    assert "failure" in found
    assert "secret" not in str(found)


@pytest.mark.once
def test_each_url_of_a_list_is_checked(settings, redis_server):
    unreachable = f"amqp://guest:secret@localhost:{free_port()}//"
    here = f"amqp://127.0.0.1:{redis_server.port}//"
    assert reach(here).level is Level.OK
    assert reach(f"{unreachable};{here}").level is Level.WARNING
    assert reach(f"{unreachable};{unreachable}").level is Level.FAILURE
    assert "secret" not in reach(unreachable).what


@pytest.mark.once
@pytest.mark.parametrize("url", ["redis://:se/cret@host/0", "redis://:se#cret@host/0"])
def test_malformed_url_is_not_printed(settings, url):
    settings.REDIS_URL = url
    output, code = doctor()
    assert code == 1
    assert "%2F for /" in output
    assert "%2F for /" in reach(url).todo
    assert "'se'" not in output + reach(url).what


@pytest.mark.once
def test_changes_that_are_not_published_are_a_failure(settings, rabbitmq_server):
    settings.EVENTS_URL = rabbitmq_server.url()
    broker, relay = health.examine()
    assert broker.level is Level.OK
    assert (relay.level, relay.todo) == (
        Level.FAILURE, "Start manage.py relay_events.",
    )  # fmt: skip
    lease = Lease()
    lease.acquire()
    assert [found.level for found in health.examine()] == [Level.OK] * 2
    lease.record_failure("TimeoutError: timed out")
    assert list(health.examine())[1].todo == "TimeoutError: timed out"
