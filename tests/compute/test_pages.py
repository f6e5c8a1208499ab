"""Pages of jobs."""

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from rest_framework import serializers

from compute import files, registry
from compute.models import Job
from compute.task_context import TaskContext
from compute.views import PAGE_ROWS
from tests.compute.factories import make_file, make_job
from tests.factories import allow

pytestmark = [pytest.mark.django_db, pytest.mark.once]

KEY = "0190f0e0-0000-7000-8000-000000000000"


class Upload(serializers.Serializer[Any]):
    file = serializers.FileField()
    word = serializers.CharField(max_length=5)
    sides = serializers.ListField(
        child=serializers.ChoiceField([("l", "Left"), ("r", "Right")]), required=False
    )


@pytest.fixture
def member(client: Client, reader: User) -> Client:
    client.force_login(reader)
    return client


@pytest.fixture
def read_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that takes a file."""
    monkeypatch.setattr(registry, "tasks", registry.tasks.copy())

    @registry.task(params=Upload)
    def read_file(context: TaskContext, *, file: str, word: str, **more: Any) -> None:
        """Read a file.

        As often as it takes."""


def text(response) -> str:
    return response.content.decode()


def words(response) -> str:
    """What is to be read on the page."""
    return " ".join(re.sub(r"<[^>]*>", " ", text(response)).split())


def url(job: Job, action: str = "") -> str:
    return f"/jobs/{job.pk}/{action}"


# --- the list


def test_list_shows_own_jobs_newest_first(member, reader, editor):
    first, second = make_job(owner=reader), make_job("running", owner=reader)
    make_job(owner=editor)
    response = member.get("/jobs/")
    assert [job.pk for job in response.context["page"].rows] == [second.pk, first.pk]
    assert "42 %" in text(response)
    assert "by edith" not in words(response)


def test_page_of_anothers_job_offers_what_is_permitted(member, reader, editor):
    job = make_job(owner=editor)
    User.objects.filter(pk=reader.pk).update(is_staff=True)
    assert member.get(url(job)).status_code == 404
    allow(reader, "view_job")
    assert "Cancel" not in words(member.get(url(job)))
    assert member.post(url(job, "cancel/")).status_code == 403
    allow(reader, "change_job")
    assert "Cancel" in words(member.get(url(job)))
    member.post(url(job, "cancel/"))
    assert Job.objects.get(pk=job.pk).state == "cancelled"


def test_administrator_sees_all_jobs_with_owners_and_cancels_any(client, admin, editor):
    job = make_job(owner=editor)
    make_job(owner=None)
    parent = make_job("running")
    make_job(parent=parent, part=0)
    client.force_login(admin)
    response = client.get("/jobs/")
    assert len(response.context["page"].rows) == 3
    assert "by edith" in words(response)
    assert "by anonymous" in words(response)
    assert "by edith" in words(client.get(url(job)))
    client.post(url(job, "cancel/"))
    assert Job.objects.get(pk=job.pk).state == "cancelled"


def test_list_is_filtered_and_paged(member, reader):
    for number in range(PAGE_ROWS + 1):
        make_job("succeeded", owner=reader, params={"number": number})
    nap = make_job("failed", task="nap", owner=reader, params={})

    first = member.get("/jobs/").context["page"]
    assert len(first.rows) == PAGE_ROWS
    last = member.get("/jobs/", {"cursor": first.next}).context["page"]
    assert [job.params["number"] for job in last.rows] == [1, 0]
    found = member.get("/jobs/?state=failed&task=nap")
    assert [job.pk for job in found.context["page"].rows] == [nap.pk]
    assert '<option value="failed" selected>Failed' in text(found)
    assert '<option value="nap" selected>Nap' in text(found)
    assert "No matching jobs" in text(member.get("/jobs/?state=running"))


# --- starting one


def test_task_list_has_the_permitted_tasks(member, read_file):
    response = member.get("/jobs/new/")
    assert "Give the number back." in words(response)
    assert "Read a file. Limits: 10 min and 512 MB" in words(response)
    assert "Require a permission." not in words(response)


def test_task_without_permission_is_forbidden(member):
    for method in (member.get, member.post):
        assert method("/jobs/new/for_editors/").status_code == 403
        assert method("/jobs/new/nix/").status_code == 404
    assert not Job.objects.exists()


def test_form_sent_twice_starts_one_job_unless_it_was_changed(member, reader):
    assert 'name="number" value="0"' in text(member.get("/jobs/new/echo/"))
    sent = [
        member.post("/jobs/new/echo/", {"number": number, "idempotency-key": KEY})
        for number in (7, 7, 8)
    ]
    job, other = Job.objects.order_by("id")
    assert {response.status_code for response in sent} == {302}
    locations = [response["Location"] for response in sent]
    assert locations == [url(job), url(job), url(other)]
    assert (job.task, job.params, job.owner) == ("echo", {"number": 7}, reader)


def test_each_form_has_its_own_key_and_is_not_cached(member):
    one, other = (member.get("/jobs/new/echo/") for _ in range(2))
    assert str(one.context["key"]) in text(one)
    assert str(one.context["key"]) not in text(other)
    assert "no-store" in one["Cache-Control"]
    for _ in range(2):  # an invalid one is ignored
        member.post("/jobs/new/echo/", {"number": 7, "idempotency-key": "0" * 300})
    assert Job.objects.count() == 2


def test_invalid_form_is_shown_again_with_its_error(member):
    response = member.post("/jobs/new/echo/", {"number": "many"})
    assert response.status_code == 422
    assert set(response.context["form"].errors) == {"number"}
    assert 'value="many"' in text(response)
    assert "Error: " in text(response)
    assert not Job.objects.exists()


def test_uploaded_file_is_stored_or_requested_again(member, read_file, settings):
    settings.MAX_BODY_BYTES = 100  # an upload may be larger
    file = SimpleUploadedFile("a.csv", b"name\n" * 100, content_type="text/csv")
    response = member.post("/jobs/new/read_file/", {"file": file, "word": "toolong"})
    assert response.status_code == 422
    assert "Choose the file again" in words(response)
    assert "<legend>Sides" in text(response)
    assert re.findall(r"> (\w+)</label>", text(response)) == ["Left", "Right"]
    file.seek(0)
    member.post("/jobs/new/read_file/", {"file": file, "word": "short"})
    job = Job.objects.get()
    assert job.params == {"file": "a.csv", "word": "short"}
    assert b"".join(files.read(job.files.get())) == b"name\n" * 100


def test_rejected_job_keeps_the_input(member, settings):
    settings.COMPUTE_MAX_QUEUED = 0
    response = member.post("/jobs/new/echo/", {"number": "77"})
    assert response.status_code == 503
    assert int(response["Retry-After"]) >= 1
    assert 'value="77"' in text(response)
    assert "The queue of jobs is full" in words(response)
    assert not Job.objects.exists()


def test_form_is_prefilled_from_an_earlier_job(member, reader, editor):
    own = make_job("failed", owner=reader, params={"number": 77})
    assert 'value="77"' in text(member.get(f"/jobs/new/echo/?like={own.pk}"))
    assert 'value="77"' not in text(member.get(f"/jobs/new/nap/?like={own.pk}"))
    theirs = make_job("failed", owner=editor, params={"number": 77})
    for other in (theirs.pk, uuid.uuid4(), "x"):
        response = member.get(f"/jobs/new/echo/?like={other}")
        assert 'name="number" value="0"' in text(response)


# --- one job


def test_queued_job_shows_its_position_and_an_estimate(member, reader):
    make_job()
    job = make_job(owner=reader)
    response = member.get(url(job))
    assert "1 job is ahead of it in the queue" in words(response)
    assert "Estimated start: within 1 min" in words(response)
    Job.objects.exclude(pk=job.pk).delete()
    assert "It is next in the queue" in words(member.get(url(job)))


def test_running_job_shows_its_progress(member, reader):
    job = make_job("running", owner=reader, message="17 of 40 items")
    response = member.get(url(job))
    assert '<progress id="progress" max="100" value="42">' in text(response)
    assert "17 of 40 items" in words(response)
    assert f'data-events="/api/v1/jobs/{job.pk}/events"' in text(response)
    assert "Number 5" in words(response)


def test_partial_is_rendered_for_htmx(member, reader):
    job = make_job("running", task="in_parts", owner=reader)
    make_job("failed", parent=job, part=0, error_detail="The bad one.")
    headers = {"HX-Request": "true", "HX-Target": "job"}
    assert "<html" not in text(member.get(url(job), headers=headers))
    headers["HX-Target"] = "parts"
    parts = member.get(url(job), headers=headers)
    assert "The bad one." in words(parts)
    assert "Cancel" not in words(parts)
    headers["HX-Target"] = "other"
    assert "<html" in text(member.get(url(job), headers=headers))


def test_number_of_shown_parts_is_limited(member, reader):
    job = make_job("running", task="in_parts", owner=reader)
    Job.objects.bulk_create(
        Job(task="in_parts", parent=job, part=number) for number in range(101)
    )
    page = words(member.get(url(job)))
    assert "Part 100" in page
    assert "Part 101" not in page
    assert "101 in total" in page


def test_facts_explain_a_late_start_and_several_attempts(member, reader):
    began = timezone.now()
    job = make_job(
        "running", owner=reader, attempts=4, failures=2,
        created_at=began - timedelta(seconds=40), started_at=began,
    )  # fmt: skip
    for state, code, lost in (
        ("running", "", 1),
        ("queued", "", 2),
        ("failed", "part_failed", 1),
        ("failed", "worker_lost", 2),
    ):
        ended_at = timezone.now() if state == "failed" else None
        Job.objects.filter(pk=job.pk).update(
            state=state, error_code=code, finished_at=ended_at
        )
        page = words(member.get(url(job)))
        assert "after 40 s in the queue" in page
        assert f"Attempts 4 2 failed {lost} interrupted with the worker" in page


def test_failure_is_shown_with_advice(member, reader):
    for code, advice in (
        ("task_failed", "Running it again would not help."),
        ("error", "Run it again"),
        ("crashed", "The process stopped unexpectedly"),
        ("time_limit", "Start a new job with less to do"),
        ("memory_limit", "Memory limit exceeded"),
        ("result_too_large", "too large"),
        ("part_failed", "One of its parts"),
        ("task_unknown", "does not have the task"),
        ("worker_lost", "The process stopped unexpectedly"),
        ("of_tomorrow", "Run it again"),
    ):
        job = make_job("failed", owner=reader, error_code=code, error_detail="<The>")
        response = member.get(url(job))
        assert advice in words(response), code
        assert "&lt;The&gt;" in text(response)
        assert code in words(response)


def test_job_of_an_unknown_task_is_shown(member, reader):
    job = make_job("succeeded", task="gone", owner=reader, result={"sum": 3})
    page = words(member.get(url(job)))
    assert "Number 5" in page
    assert "Sum 3" in page
    assert "Run again" not in page
    assert member.post(url(job, "again/")).status_code == 404


def test_result_without_a_template_is_shown_as_facts_or_json(member, reader):
    for result, shown in (
        (None, "The job has finished."),
        (42, "42"),
        ("<i>", "&quot;&lt;i&gt;&quot;"),
        ([1, [2]], "[ 1, [ 2 ] ]"),
        ({}, "{}"),
        ({"a_b": 12_345}, "A b 12,345"),
        ({"share": 0.123456}, "Share 0.1235"),
        ({"complete": True}, "Complete Yes"),
        ({"items": 5}, "Items 5"),
        ({"note": None}, "Note —"),
        ({"tree": {"a": [1, "<b>"]}}, "&quot;&lt;b&gt;&quot;"),
    ):
        job = make_job("succeeded", owner=reader, result=result)
        assert shown in words(member.get(url(job)))


# --- doing something with it


def test_cancel_shows_what_becomes_of_the_job(member, reader):
    job = make_job(owner=reader)
    assert member.get(url(job, "cancel/")).status_code == 405
    response = member.post(url(job, "cancel/"), follow=True)
    assert response.redirect_chain == [(url(job), 302)]
    assert "The job was cancelled before it started" in words(response)
    assert Job.objects.get().state == "cancelled"

    job = make_job("running", owner=reader)
    headers = {"HX-Request": "true", "HX-Target": "job"}
    part = member.post(url(job, "cancel/"), headers=headers)
    assert "<html" not in text(part)
    assert "Stopping…" in words(part)
    assert "disabled" in text(part)
    assert Job.objects.get(state="running").cancel_requested

    job = make_job("succeeded", owner=reader, result={"sum": 3})
    page = words(member.post(url(job, "cancel/"), follow=True))
    assert "has succeeded already" in page
    assert "Sum 3" in page


def test_job_is_run_again_once_unless_the_queue_is_full(member, reader, settings):
    job = make_job("failed", owner=reader)
    assert member.get(url(job, "again/")).status_code == 405
    page = text(member.get(url(job)))
    key = re.search(r'name="idempotency-key" value="([0-9a-f-]{36})"', page)[1]
    clicks = [
        member.post(url(job, "again/"), {"idempotency-key": key}) for _ in range(2)
    ]
    again = Job.objects.exclude(pk=job.pk).get()
    assert {response["Location"] for response in clicks} == {url(again)}
    assert (again.params, again.state) == (job.params, "queued")
    # The page that is shown next has a form of its own.
    assert key not in text(member.get(url(job)))
    settings.COMPUTE_MAX_QUEUED = 0
    response = member.post(url(job, "again/"), follow=True)
    assert "The queue of jobs is full" in words(response)
    assert Job.objects.count() == 2


def test_result_file_is_downloaded_unless_the_job_failed(member, reader):
    job = make_job("succeeded", owner=reader, result={})
    make_file(job, "a b.csv", b"name\n", "text/csv; charset=utf-8")
    page = text(member.get(url(job)))
    assert f'href="{url(job, "files/a%20b.csv")}"' in page
    assert "5\xa0bytes" in page
    response = member.get(url(job, "files/a%20b.csv"))
    assert response.content == b"name\n"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert member.get(url(job, "files/other")).status_code == 404
    job = make_job("failed", owner=reader)
    make_file(job, "half.csv", b"name\n")
    assert member.get(url(job, "files/half.csv")).status_code == 404


# --- whose it is


def test_job_of_another_user_is_404(member, editor):
    job = make_job("succeeded", owner=editor, result={})
    make_file(job, "a.csv", b"name\n")
    part = make_job("succeeded", parent=job, part=0)
    for other in (job, part):
        assert member.get(url(other)).status_code == 404
        assert member.get(url(other, "files/a.csv")).status_code == 404
        for action in ("cancel/", "again/"):
            assert member.post(url(other, action)).status_code == 404
    response = member.get(url(job))
    assert response["Content-Type"].startswith("text/html")
    assert "not yours" in words(response)


def test_who_has_lost_the_right_to_a_task_cannot_run_it(client, editor):
    job = make_job("failed", task="for_editors", owner=editor)
    client.force_login(editor)
    assert url(job, "again/") in text(client.get(url(job)))
    editor.groups.clear()
    page = client.get(url(job))
    assert url(job, "again/") not in text(page)
    assert "for_editors" not in text(client.get("/jobs/new/"))
    for path in (url(job, "again/"), "/jobs/new/for_editors/", url(job, "merge/")):
        assert client.post(path, {"number": 1, "pair": 1}).status_code == 403
    api = client.post("/api/v1/jobs", {"task": "for_editors"}, "application/json")
    assert api.status_code == 403
    assert list(Job.objects.all()) == [job]


def test_anonymous_users_are_redirected_to_sign_in(client, reader):
    job = make_job("succeeded", owner=reader)
    paths = ["/jobs/", "/jobs/new/", "/jobs/new/echo/", url(job), url(job, "files/a")]
    for path in paths:
        response = client.get(path)
        assert response.status_code == 302
        assert response["Location"] == f"/account/sign-in/?next={path}"
    for action in ("cancel/", "again/", "merge/"):
        assert client.post(url(job, action)).status_code == 302
    assert 'href="/jobs/"' not in text(client.get("/items/"))


def test_partial_reloads_the_page_after_the_session(client, reader):
    job = make_job("running", owner=reader)
    response = client.get(url(job), headers={"HX-Request": "true", "HX-Target": "job"})
    assert response["HX-Refresh"] == "true"
    assert response.content == b""


# --- query counts


def test_pages_take_a_fixed_number_of_queries(
    member, reader, admin, editor, django_assert_num_queries
):
    done = make_job("succeeded", owner=reader, result={"sum": 3})
    parted = make_job("running", task="in_parts", owner=reader)
    waiting, theirs = make_job(owner=reader), make_job("running", owner=editor)
    for number in range(20):
        make_job("succeeded", owner=reader)
        make_file(done, f"{number}.csv", b"x")
        make_job("running", parent=parted, part=number)
    session_and_user, permissions, job = 2, 1, 1
    for number, path in (
        (1, "/jobs/"),
        (1, "/jobs/?state=succeeded&task=echo"),
        (0, "/jobs/new/"),
        (0, "/jobs/new/echo/"),
        (job + 1, url(done)),  # its files
        (job + 2, url(parted)),  # its parts, and how many
        (job + 2, url(waiting)),  # its place, and how fast the queue moves
    ):
        with django_assert_num_queries(number + session_and_user + permissions):
            assert member.get(path).status_code == 200
    member.force_login(admin)
    with django_assert_num_queries(1 + session_and_user):
        assert member.get("/jobs/").status_code == 200
    with django_assert_num_queries(job + 1 + session_and_user):  # its owner
        assert member.get(url(theirs)).status_code == 200
