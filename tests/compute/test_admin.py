"""Jobs in the admin: seen, stopped, tried again and, when finished, deleted."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from compute.models import Job
from tests.compute.factories import make_file, make_job
from tests.factories import allow

pytestmark = [pytest.mark.django_db, pytest.mark.once]

JOBS = "/admin/compute/job/"


@pytest.fixture
def admin_site(client, admin):
    client.force_login(admin)
    return client


@pytest.fixture
def staff_site(client, reader):
    reader.is_staff = True
    reader.save()
    client.force_login(reader)
    return client


def sent(response) -> str:
    assert response.status_code in (200, 302), response
    return response.content.decode()


def listed(response) -> set[Any]:
    assert response.status_code == 200
    return {job.pk for job in response.context["cl"].result_list}


def act(site, action: str, *jobs: Job, **more: str) -> str:
    data = {"action": action, "_selected_action": [job.pk for job in jobs]}
    return sent(site.post(JOBS, data | more, follow=True))


def test_admin_lists_jobs_without_parts(admin_site, editor):
    job = make_job("succeeded", owner=editor)
    make_job("running", parent=job, part=0)
    page = admin_site.get(JOBS)
    assert listed(page) == {job.pk}
    assert "edith" in sent(page)
    assert "1 min 15 s" in sent(page)


def test_admin_filters_jobs(admin_site):
    running, queued = make_job("running", task="nap"), make_job()
    before = timezone.now() - timedelta(minutes=11)
    lost = make_job("running", lease_until=before)
    waiting = make_job(queued_at=before, run_after=None)
    for query, found in (
        ("", {running.pk, queued.pk, lost.pk, waiting.pk}),
        ("task=nap", {running.pk}),
        ("task=nix", set()),
        ("state__exact=queued", {queued.pk, waiting.pk}),
        ("stuck=lost", {lost.pk}),
        ("stuck=waiting", {waiting.pk}),
    ):
        assert listed(admin_site.get(f"{JOBS}?{query}")) == found, query


def test_admin_finds_a_job_by_id_or_owner(admin_site, editor):
    of_edith, other = make_job(owner=editor), make_job()
    for term, found in (
        (str(other.pk), {other.pk}),
        (f" {other.pk} ", {other.pk}),
        ("EDI", {of_edith.pk}),
        (str(uuid.uuid4()), set()),
        ("nobody", set()),
    ):
        assert listed(admin_site.get(JOBS, {"q": term})) == found, term


def test_admin_shows_a_job_read_only(admin_site, editor):
    job = make_job("failed", owner=editor, result={"sum": 3}, task="unknown")
    change = f"{JOBS}{job.pk}/change/"
    page = sent(admin_site.get(change))
    assert "&quot;sum&quot;: 3" in page
    assert "ValueError: the cat" in page
    assert admin_site.post(change, {"state": "failed"}).status_code == 403
    assert admin_site.get(f"{JOBS}add/").status_code == 403


def test_admin_cancels_and_retries_selected_jobs(admin_site):
    waiting, running, done = make_job(), make_job("running"), make_job("succeeded")
    page = act(admin_site, "cancel", waiting, running, done)
    assert "Jobs cancelled: 2. 1 had already finished." in page
    assert Job.objects.get(pk=waiting.pk).state == "cancelled"
    assert Job.objects.get(pk=running.pk).cancel_requested
    assert Job.objects.get(pk=done.pk).state == "succeeded"

    failed, cancelled, done = map(make_job, ("failed", "cancelled", "succeeded"))
    page = act(admin_site, "retry", failed, cancelled, done)
    assert "Jobs to retry: 2. 1 had neither failed nor been cancelled." in page
    queued = Job.objects.filter(state="queued")
    assert {job.pk for job in queued} == {failed.pk, cancelled.pk}
    assert {job.error_code for job in queued} == {""}


def test_admin_deletes_finished_jobs_and_reads_no_file(
    admin_site, django_assert_max_num_queries
):
    done, failed, one = map(make_job, ("succeeded", "failed", "cancelled"))
    make_job("succeeded", parent=done, part=0)
    for number in range(5):
        make_file(done, f"{number}.csv", b"name\n")
    sent(admin_site.post(f"{JOBS}{one.pk}/delete/", {"post": "yes"}))
    with django_assert_max_num_queries(30) as queries:
        assert str(done.pk) in act(admin_site, "delete_selected", done, failed)
        act(admin_site, "delete_selected", done, failed, post="yes")
    touched = [query["sql"] for query in queries if "jobfilechunk" in query["sql"]]
    assert [sql.partition(" ")[0] for sql in touched] == ["DELETE"]
    assert not Job.objects.exists()


def test_admin_deletes_no_unfinished_job(admin_site):
    job, done = make_job("running"), make_job("succeeded")
    assert (
        admin_site.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    )
    page = act(admin_site, "delete_selected", job, done)
    assert "protected" in page
    act(admin_site, "delete_selected", job, done, post="yes")
    assert Job.objects.count() == 2


def test_admin_checks_permissions(staff_site, reader):
    waiting, done = make_job(), make_job("succeeded")
    assert staff_site.get(JOBS).status_code == 403
    allow(reader, "view_job")
    page = sent(staff_site.get(JOBS))
    assert 'value="cancel"' not in page
    assert 'value="delete_selected"' not in page
    act(staff_site, "cancel", waiting)
    assert Job.objects.get(pk=waiting.pk).state == "queued"
    assert staff_site.post(f"{JOBS}{done.pk}/delete/").status_code == 403

    allow(reader, "change_job")
    act(staff_site, "cancel", waiting)
    assert Job.objects.get(pk=waiting.pk).state == "cancelled"
    allow(reader, "delete_job")
    sent(staff_site.post(f"{JOBS}{done.pk}/delete/", {"post": "yes"}))
    assert not Job.objects.filter(pk=done.pk).exists()


def test_list_takes_a_fixed_number_of_queries(
    admin_site, editor, django_assert_num_queries
):
    for _ in range(20):
        make_job("succeeded", owner=editor, result={"text": "x" * 1000})
    with django_assert_num_queries(4) as queries:
        sent(admin_site.get(JOBS))
    assert not any('"result"' in query["sql"] for query in queries)
