"""What the doctor finds, in servers and folders that are really as he says."""

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
from items.events.lease import Place
from resilient_site.operations.doctor import Level, reach
from tests.private_server import free_port

# Examinations have connections of their own.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    settings.REDIS_URL = ""
    return tmp_path


def doctor(*options: str) -> tuple[str, int]:
    """Return what he says, and with which code he ends."""
    out = StringIO()
    try:
        call_command("doctor", "--no-color", *options, stdout=out)
    except SystemExit as end:
        return out.getvalue(), int(end.code or 0)
    return out.getvalue(), 0


def examine(name: str) -> list[tuple[str, str]]:
    """Return level and words of the findings about one thing."""
    told, code = doctor("--json")
    found = [json.loads(line) for line in told.splitlines()]
    assert code == any(one["level"] == "failure" for one in found)
    assert all(one["todo"] for one in found if one["level"] == "failure")
    return [(one["level"], one["what"]) for one in found if one["name"] == name]


def levels(name: str) -> set[str]:
    return {level for level, _ in examine(name)}


def test_a_person_is_told_in_lines(settings):
    settings.DEBUG = True
    told, code = doctor()
    assert "ok       database" in told
    assert "failure  settings  DEBUG is on" in told
    assert "→ Unset DEBUG." in told
    assert code == 1


def test_what_is_meant_is_no_finding(settings):
    """Those that the settings silence, with their reason."""
    settings.EMBEDDED, settings.SECURE_HSTS_SECONDS = False, 3600
    told, _ = doctor()
    assert settings.SILENCED_SYSTEM_CHECKS
    assert not [name for name in settings.SILENCED_SYSTEM_CHECKS if name in told]


def test_the_database_answers():
    found = examine("database")
    assert found[0][0] == "ok"
    assert connection.display_name in found[0][1]


def test_a_missing_migration_is_named():
    # The latest: of one that others build on, Django does not look for the lack.
    (latest,) = MigrationLoader(connection).graph.leaf_nodes("items")
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied(*latest)
    try:
        found = examine("database")
    finally:
        recorder.record_applied(*latest)
    said = f"Migrations are missing: 1, from {'.'.join(latest)} on."
    assert ("failure", said) in found


@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_a_server_that_forgets_is_found():
    # The tests' own does not wait for the disk.
    words = " ".join(what for level, what in examine("database") if level == "failure")
    assert "fsync is off" in words


def test_a_cache_that_keeps_everything_is_found(settings, redis_server):
    settings.REDIS_URL = redis_server.url()
    assert levels("cache") == {"ok", "warning"}


def test_a_cache_that_hangs_is_found(settings, redis_own):
    settings.REDIS_URL = redis_own.url()
    redis_own.pause()
    (level, what), *_ = examine("cache")
    assert level == "failure"
    assert "Timeout" in what


def test_a_folder_that_is_none_is_found(settings, folder):
    settings.DATA_DIR = folder / "none"
    assert levels("folder") == {"failure"}


def test_low_file_limit_is_a_warning(monkeypatch):
    assert levels("machine") <= {"ok", "warning"}
    monkeypatch.setattr("resilient_site.operations.doctor.FILES_WANTED", 10**9)
    assert levels("machine") == {"warning"}


def test_jobs_that_nobody_takes_are_found(django_user_model):
    user = django_user_model.objects.create_user("edith")
    assert levels("jobs") == {"ok"}
    jobs.submit(task=get_task("heavy_computation"), params={}, owner=user)
    assert levels("jobs") == {"ok"}
    Job.objects.update(queued_at=timezone.now() - timedelta(minutes=1))
    assert levels("jobs") == {"ok", "failure"}


def test_a_queue_that_is_full_is_found(settings, django_user_model):
    user = django_user_model.objects.create_user("edith")
    jobs.submit(task=get_task("heavy_computation"), params={}, owner=user)
    settings.COMPUTE_MAX_QUEUED = 1
    assert "warning" in levels("jobs")


def test_a_broker_that_is_away_is_found(settings):
    settings.COMPUTE_BACKEND = "celery"
    settings.BROKER_URL = f"amqp://guest:secret@localhost:{free_port()}//"
    found = dict(examine("jobs"))
    assert "failure" in found
    assert "secret" not in str(found)


def test_of_a_list_each_broker_is_asked(settings, redis_server):
    away = f"amqp://guest:secret@localhost:{free_port()}//"
    here = f"amqp://127.0.0.1:{redis_server.port}//"
    assert reach(here).level is Level.OK
    assert reach(f"{away};{here}").level is Level.WARNING
    assert reach(f"{away};{away}").level is Level.FAILURE
    assert "secret" not in reach(away).what


@pytest.mark.parametrize("url", ["redis://:se/cret@host/0", "redis://:se#cret@host/0"])
def test_of_an_address_that_cannot_be_read_nothing_is_told(settings, url):
    settings.REDIS_URL = url
    told, code = doctor()
    assert code == 1
    assert "%2F for /" in told
    assert "%2F for /" in reach(url).todo
    assert "'se'" not in told + reach(url).what


def test_changes_that_nobody_publishes_are_found(settings, rabbitmq_server):
    settings.EVENTS_URL = rabbitmq_server.url()
    here, nobody = health.examine()
    assert here.level is Level.OK
    assert (nobody.level, nobody.todo) == (
        Level.FAILURE, "Start manage.py relay_events.",
    )  # fmt: skip
    place = Place()
    place.hold()
    assert [found.level for found in health.examine()] == [Level.OK] * 2
    place.note_trouble("TimeoutError: timed out")
    assert list(health.examine())[1].todo == "TimeoutError: timed out"
