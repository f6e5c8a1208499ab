"""`manage.py doctor` with real servers and folders."""

import json
import subprocess
import sys
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from compute import health as job_health
from compute import jobs
from compute.models import Job
from compute.registry import get_task
from items.events import health
from items.events import lease as lease_module
from items.events.lease import Lease
from items.models import ItemChange
from resilient_site.models import Epoch
from resilient_site.operations import doctor
from resilient_site.operations.doctor import Check, Level, reach
from tests.factories import make_item
from tests.private_server import free_port
from tests.running import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.once]


@pytest.fixture(autouse=True)
def folder(settings, monkeypatch, tmp_path):
    settings.DATA_DIR = tmp_path
    settings.REDIS_URL = ""
    # On a busy machine each check takes its time.
    monkeypatch.setattr(doctor, "TIMEOUT_S", 60)
    return tmp_path


def run_doctor(*options: str) -> str:
    """Return the output of a run that finds a failure."""
    out = StringIO()
    with pytest.raises(SystemExit, match="1"):
        call_command("doctor", "--no-color", *options, stdout=out)
    return out.getvalue()


def levels(check: Check) -> set[str]:
    return {found.level for found in check()}


def unreachable() -> str:
    return f"amqp://guest:secret@localhost:{free_port()}//"


@pytest.mark.parametrize("url", ["redis://:se/cret@host/0", "redis://:se#cret@host/0"])
def test_findings_are_printed_in_lines_without_a_password(settings, url):
    settings.DEBUG, settings.REDIS_URL = True, url
    settings.EMBEDDED, settings.SECURE_HSTS_SECONDS = False, 3600
    output = run_doctor()
    assert "ok       database" in output
    assert "failure  settings  DEBUG is on" in output
    assert "→ Unset DEBUG." in output
    assert settings.SILENCED_SYSTEM_CHECKS
    assert not [name for name in settings.SILENCED_SYSTEM_CHECKS if name in output]
    assert "%2F for /" in output
    assert "%2F for /" in reach(url).todo
    assert "'se'" not in output + reach(url).what


def test_check_that_fails_does_not_stop_the_others(settings, redis_own):
    settings.REDIS_URL = redis_own.url()
    redis_own.pause()
    found = list(map(json.loads, run_doctor("--json").splitlines()))
    (cache,) = (one for one in found if one["name"] == "cache")
    assert cache["level"] == "failure"
    assert "Timeout" in cache["what"]
    assert cache["todo"]
    assert {one["name"] for one in found} >= {"machine", "folder", "database", "jobs"}


def test_missing_migration_is_a_failure():
    # Of a migration that others depend on, Django does not notice the lack.
    answers, *_ = doctor.database()
    assert (answers.level, connection.display_name in answers.what) == ("ok", True)
    (latest,) = MigrationLoader(connection).graph.leaf_nodes("items")
    MigrationRecorder(connection).record_unapplied(*latest)
    text = f"Migrations are not applied: 1, the first is {'.'.join(latest)}."
    assert (Level.FAILURE, text) in [(one.level, one.what) for one in doctor.database()]


@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_server_without_fsync_is_a_failure():
    # The server of the tests runs without fsync.
    failures = (one.what for one in doctor.database() if one.level == Level.FAILURE)
    assert "fsync is off" in " ".join(failures)


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif("connection.vendor != 'postgresql'")
def test_dump_without_its_sequences_is_named_and_repaired(api):
    make_item(id="a")
    ItemChange.objects.update(id=1)
    epoch, named = Epoch.current(), "pg_get_serial_sequence('items_itemchange', 'id')"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT setval({named}, 1, false)")
        cursor.execute("SELECT setval('items_tag_id_seq', 1000)")

    answer = api.post("/api/v1/items", {"name": "b"})
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "without its sequences" in answer.json()["detail"]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT setval({named}, 1, false)")
    text = "The next id of items_itemchange is 1, and those up to 1 are taken"
    assert text in run_doctor()

    assert text not in run_doctor("--new-epoch")
    assert api.post("/api/v1/items", {"name": "b"}).status_code == 201
    assert ItemChange.objects.latest("id").pk == 2
    with connection.cursor() as cursor:  # one that is ahead stays
        cursor.execute("SELECT nextval('items_tag_id_seq')")
        assert cursor.fetchone() == (1001,)
    assert Epoch.current() != epoch


def test_redis_without_eviction_is_a_warning(settings, redis_server, monkeypatch):
    monkeypatch.setattr(doctor, "REDIS_TIMEOUT_S", 60)
    settings.REDIS_URL = redis_server.url()
    assert levels(doctor.shared_cache) == {"ok", "warning"}


def test_missing_data_dir_is_a_failure(settings, folder: Path):
    assert levels(doctor.folder) <= {"ok", "warning"}
    for mode, is_told in ((0o700, False), (0o750, True), (0o701, True)):
        folder.chmod(mode)
        told = [found for found in doctor.folder() if "Other users" in found.what]
        assert bool(told) == is_told
    settings.DATA_DIR = folder / "none"
    assert levels(doctor.folder) == {"failure"}


CHECK_MACHINE = """
import resource
from resilient_site.operations import doctor
print(*(found.level for found in doctor.machine()))
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
print(*(found.level for found in doctor.machine()))
"""


def test_low_hard_limit_on_open_files_is_a_warning():
    command = [sys.executable, "-c", CHECK_MACHINE]
    levels = subprocess.check_output(command, cwd=ROOT, text=True).split()
    assert levels == ["ok", "warning"]


def test_jobs_without_a_pool_are_a_failure_and_a_full_queue_a_warning(
    settings, editor, monkeypatch
):
    monkeypatch.setattr(job_health, "TIMEOUT_S", 60)
    monkeypatch.setattr(job_health, "CLAIMED_WITHIN", timedelta(hours=1))
    assert levels(job_health.find_problems) == {"ok"}
    jobs.submit(task=get_task("heavy_computation"), params={}, owner=editor)
    assert levels(job_health.find_problems) == {"ok"}
    Job.objects.update(queued_at=timezone.now() - timedelta(hours=2))
    assert levels(job_health.find_problems) == {"failure"}
    settings.COMPUTE_MAX_QUEUED = 1
    Job.objects.update(queued_at=timezone.now())
    assert levels(job_health.find_problems) == {"warning"}


def test_unreachable_broker_is_a_failure(settings):
    settings.COMPUTE_BACKEND, settings.BROKER_URL = "celery", unreachable()
    _, broker = job_health.find_problems()
    assert broker.level == Level.FAILURE
    assert "secret" not in broker.what


def test_each_url_of_a_list_is_checked(redis_server):
    here, nowhere = f"amqp://127.0.0.1:{redis_server.port}//", unreachable()
    assert reach(here).level is Level.OK
    assert reach(f"{nowhere};{here}").level is Level.WARNING
    assert reach(f"{nowhere};{nowhere}").level is Level.FAILURE


def test_changes_that_are_not_published_are_a_failure(
    settings, redis_server, monkeypatch
):
    monkeypatch.setattr(lease_module, "LEASE_S", 600.0)
    settings.EVENTS_URL = f"amqp://127.0.0.1:{redis_server.port}//"
    broker, relay = health.examine()
    assert broker.level is Level.OK
    assert relay.level is Level.FAILURE
    assert relay.todo == "Start manage.py relay_events."
    lease = Lease()
    lease.acquire()
    assert levels(health.examine) == {"ok"}
    lease.record_failure("TimeoutError: timed out")
    assert list(health.examine())[1].todo == "TimeoutError: timed out"


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL")
def test_replica_that_is_no_standby_is_a_failure(settings):
    settings.DATABASE_REPLICAS = ["default"]
    (found,) = doctor.replicas()
    assert (found.level, found.what) == (Level.FAILURE, "default is no standby.")
