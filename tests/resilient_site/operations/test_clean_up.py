"""Clean-up deletes what has expired, and nothing else."""

from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.utils import timezone

from compute import jobs, queue
from compute.models import Job
from compute.registry import get_task
from resilient_site.models import ApiToken, IdempotencyRecord

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
        "outdated search texts": 0,
        "old jobs": 1,
        "files of failed attempts": 0,
    }
    assert not any(clean_up().values())
    assert ApiToken.objects.count() == 3
    assert Session.objects.get().session_key == "1"
    assert IdempotencyRecord.objects.get().key == "23"
    assert Job.objects.get() == recent


def test_clean_up_continues_until_nothing_is_left(django_user_model, monkeypatch):
    monkeypatch.setattr(queue, "DELETE_BATCH", 2)
    user = django_user_model.objects.create_user("edith")
    for _ in range(5):
        end_a_job(user, 31)
    assert clean_up()["old jobs"] == 5
