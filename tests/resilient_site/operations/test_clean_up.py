"""Clean-up deletes what has expired, and nothing else."""

from datetime import timedelta
from io import StringIO
from uuid import uuid4

import pytest
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.utils import timezone

from compute import jobs, queue
from compute.models import Job
from compute.registry import get_task
from items.imports import uploads
from items.models import ImportRun
from resilient_site.api import idempotency
from resilient_site.models import ApiToken, IdempotencyRecord
from resilient_site.operations import clean_up as clean_up_module

pytestmark = pytest.mark.django_db


def clean_up() -> dict[str, int]:
    out = StringIO()
    call_command("clean_up", stdout=out)
    lines = (line.rsplit(": ", 1) for line in out.getvalue().splitlines())
    return {what: int(number) for what, number in lines}


def end_a_job(owner, days_ago: int) -> Job:
    job = jobs.submit(task=get_task("heavy_computation"), params={}, owner=owner)
    jobs.cancel(job)
    ended = timezone.now() - timedelta(days=days_ago)
    Job.objects.filter(pk=job.pk).update(finished_at=ended)
    return job


def test_clean_up_deletes_only_what_has_expired(django_user_model):
    user = django_user_model.objects.create_user("edith")
    now = timezone.now()
    for days in (-30, -1, 1, None):
        token, _ = ApiToken.objects.create(user)
        expiry = None if days is None else now + timedelta(days=days)
        ApiToken.objects.filter(pk=token.pk).update(expiry=expiry)
    for hours in (-1, 1):
        Session.objects.create(
            session_key=str(hours), expire_date=now + timedelta(hours=hours)
        )
    for hours in (25, 23):
        IdempotencyRecord.objects.create(
            owner=user, key=str(hours), status=200, headers=[], body=b"",
            created_at=now - timedelta(hours=hours),
        )  # fmt: skip
    end_a_job(user, 31)
    recent = end_a_job(user, 29)
    assert clean_up() == {
        "expired API tokens": 1,
        "expired sessions": 1,
        "stored responses to writes": 1,
        "abandoned uploads": 0,
        "stored objects of no import file": 0,
        "stored objects of no job file": 0,
        "outdated search texts": 0,
        "abandoned schemas": 0,
        "old jobs": 1,
        "files of failed attempts": 0,
    }
    assert not any(clean_up().values())
    assert ApiToken.objects.count() == 3
    assert Session.objects.get().session_key == "1"
    assert IdempotencyRecord.objects.get().key == "23"
    assert Job.objects.get() == recent


def make_old_session(user, days_ago: int) -> None:
    expired = timezone.now() - timedelta(days=days_ago)
    Session.objects.create(session_key=f"{days_ago}", expire_date=expired)


def make_old_response(user, days_ago: int) -> None:
    IdempotencyRecord.objects.create(
        owner=user, key=f"{days_ago}", status=200, headers=[], body=b"",
        created_at=timezone.now() - timedelta(days=days_ago),
    )  # fmt: skip


def make_old_upload(user, days_ago: int) -> None:
    started = timezone.now() - timedelta(days=days_ago)
    ImportRun.objects.create(id=uuid4(), started_at=started, preview={}, path="/none")


@pytest.mark.parametrize(
    ("what", "module", "make", "age"),
    [
        ("old jobs", queue, end_a_job, "finished_at"),
        ("expired sessions", clean_up_module, make_old_session, "expire_date"),
        ("stored responses to writes", idempotency, make_old_response, "created_at"),
        ("abandoned uploads", uploads, make_old_upload, "started_at"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_backlog_is_deleted_in_batches_with_the_oldest_first(
    django_user_model, monkeypatch, what, module, make, age
):
    monkeypatch.setattr(module, "DELETE_BATCH", 2)
    user = django_user_model.objects.create_user("edith")
    for days_ago in (33, 35, 31, 34, 32):
        make(user, days_ago)
    rows = {
        queue: Job, clean_up_module: Session,
        idempotency: IdempotencyRecord, uploads: ImportRun,
    }[module].objects  # fmt: skip
    assert clean_up_module.clean_up()[what] == 2
    oldest = rows.order_by(age).values_list(age, flat=True)
    assert [(timezone.now() - at).days for at in oldest] == [33, 32, 31]
    assert clean_up()[what] == 3  # the command goes on until nothing is left
    assert not rows.exists()
