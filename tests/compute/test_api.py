"""Jobs over REST."""

import json
import uuid

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from compute import completion, files, jobs, queue
from compute.models import Job, JobFile
from compute.outcomes import ErrorCode, Failed, Succeeded
from compute.registry import get_task
from tests.compute import faults

JOBS = "/api/v1/jobs/"


@pytest.fixture
def api(reader) -> APIClient:
    client = APIClient()
    client.force_authenticate(reader)
    return client


def ask(api: APIClient, task: str = "echo", headers: dict | None = None, **params):
    body = {"task": task, "params": params}
    return api.post(JOBS, body, headers=headers or {})


def work(result: object = None) -> Job:
    """Do the next job, as a pool would."""
    (claim,) = queue.claim("worker", 1)
    completion.finish(claim, Succeeded(result))
    return Job.objects.get(pk=claim.job_id)


def test_a_job_is_accepted_with_its_address(api, reader):
    answer = ask(api, number=7)
    job = Job.objects.get()
    assert answer.status_code == 202
    assert answer["Location"] == f"http://testserver/api/v1/jobs/{job.pk}"
    assert int(answer["Retry-After"]) >= 1
    body = answer.json()
    assert set(body) == {
        "id", "task", "params", "state", "progress", "attempts", "result", "error",
        "created_at", "started_at", "finished_at", "links", "files",
    }  # fmt: skip
    assert (body["id"], body["task"], body["state"]) == (str(job.pk), "echo", "queued")
    assert body["params"] == {"number": 7}
    assert body["progress"] == {"fraction": 0, "message": ""}
    assert (job.owner, job.request_id) == (reader, answer["X-Request-ID"])


def test_defaults_are_filled_in(api):
    assert ask(api).json()["params"] == {"number": 0}


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"task": ["There is no such task."]}),
        ({"task": "nothing"}, {"task": ["There is no such task."]}),
        ({"task": ["echo"]}, {"task": ["There is no such task."]}),
        ({"task": "echo", "params": [1]}, {"params": ["Must be an object."]}),
        (
            {"task": "echo", "params": {"number": "x"}},
            {"params": {"number": ["A valid integer is required."]}},
        ),
        (
            {"task": "import_items"},
            {"params": {"file": ["No file was submitted."]}},
        ),
        ([], None),
    ],
    ids=["empty", "unknown", "list", "params", "number", "file", "array"],
)
def test_what_is_wrong_is_named(api, body, errors):
    answer = api.post(JOBS, body)
    assert answer.status_code == 400
    assert answer.json().get("errors") == errors
    assert not Job.objects.exists()


def test_who_is_not_signed_in_is_asked_to(anonymous_api):
    for address in (JOBS, f"{JOBS}{uuid.uuid4()}"):
        assert anonymous_api.get(address).status_code == 401
    assert ask(anonymous_api).status_code == 401


def test_a_task_for_editors_is_not_for_readers(api):
    answer = ask(api, "for_editors")
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


def test_a_file_is_sent_as_a_form(editor):
    api = APIClient()
    api.force_authenticate(editor)
    upload = SimpleUploadedFile("my.csv", b"id,name\n1,x\n", "text/csv")
    answer = api.post(JOBS, {"task": "import_items", "file": upload}, "multipart")
    assert answer.status_code == 202
    assert answer.json()["params"]["file"] == "my.csv"
    kept = JobFile.objects.get(kind="input")
    assert b"".join(files.read(kept)) == b"id,name\n1,x\n"


def test_only_a_form_with_a_file_may_be_as_large_as_one(editor, settings):
    """All else is taken into memory."""
    settings.MAX_BODY_BYTES, settings.IMPORT_MAX_BYTES = 1_000, 10_000
    api = APIClient()
    api.force_authenticate(editor)
    large = {"task": "echo", "params": {"x": "x" * 2_000}}
    answer = api.post(JOBS, large)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    upload = SimpleUploadedFile("my.csv", b"id,name\n" + b"1,x\n" * 1_000, "text/csv")
    form = {"task": "import_items", "file": upload}
    assert api.post(JOBS, form, "multipart").status_code == 202
    assert not Job.objects.filter(task="echo").exists()


def test_the_same_key_makes_one_job(api):
    one = ask(api, headers={"Idempotency-Key": "k"}, number=1)
    same = ask(api, headers={"Idempotency-Key": "k"}, number=1)
    assert one.json()["id"] == same.json()["id"]
    assert same.status_code == 202
    other = ask(api, headers={"Idempotency-Key": "k"}, number=2)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    work()
    assert ask(api, headers={"Idempotency-Key": "k"}, number=1).status_code == 200
    long = ask(api, headers={"Idempotency-Key": "k" * 300})
    assert (long.status_code, list(long.json()["errors"])) == (400, ["Idempotency-Key"])
    assert Job.objects.count() == 1


def test_a_full_queue_says_when_to_come_back(api, settings):
    settings.COMPUTE_MAX_QUEUED_PER_OWNER = 1
    ask(api)
    answer = ask(api)
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_jobs")
    assert answer["Retry-After"] == "60"
    settings.COMPUTE_MAX_QUEUED = 1
    answer = ask(api)
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
    assert answer["Retry-After"] == "60"


def test_preferences_are_acknowledged(api):
    answer = ask(api, headers={"Prefer": "respond-async, wait=100"})
    assert answer["Preference-Applied"] == "respond-async, wait=60"


def test_a_person_sees_his_own_jobs_and_staff_sees_all(api, admin, editor):
    ask(api)
    other = jobs.submit(task=get_task("echo"), params={"number": 1}, owner=editor)
    assert len(api.get(JOBS).json()["results"]) == 1
    for action in ("", "/events", "/result", "/files/x"):
        answer = api.get(f"{JOBS}{other.pk}{action}")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert api.post(f"{JOBS}{other.pk}/cancel").status_code == 404
    staff = APIClient()
    staff.force_authenticate(admin)
    assert len(staff.get(JOBS).json()["results"]) == 2
    assert staff.get(f"{JOBS}{other.pk}").status_code == 200


def test_the_list_goes_page_by_page_without_results(api, django_assert_num_queries):
    for number in range(5):
        ask(api, number=number)
    work({"x": 1})
    with django_assert_num_queries(1):
        page = api.get(f"{JOBS}?page_size=2").json()
    assert [job["params"]["number"] for job in page["results"]] == [4, 3]
    assert "result" not in page["results"][0]
    page = api.get(page["next"]).json()
    assert [job["params"]["number"] for job in page["results"]] == [2, 1]


def test_the_list_is_filtered(api):
    ask(api)
    ask(api, "count_items")
    work()
    assert [
        j["task"] for j in api.get(f"{JOBS}?state=succeeded").json()["results"]
    ] == ["echo"]
    assert [
        j["task"] for j in api.get(f"{JOBS}?task=count_items").json()["results"]
    ] == ["count_items"]
    wrong = api.get(f"{JOBS}?state=lazy&task=x")
    assert (wrong.status_code, sorted(wrong.json()["errors"])) == (
        400,
        ["state", "task"],
    )


def test_a_result_is_there_when_the_job_has_succeeded(api):
    address = ask(api, number=3)["Location"]
    early = api.get(f"{address}/result")
    assert (early.status_code, early.json()["code"]) == (409, "not_finished")
    assert "Retry-After" in early
    work({"number": 3})
    assert api.get(f"{address}/result").json() == {"number": 3}
    assert api.get(address).json()["result"] == {"number": 3}
    assert api.get(address).json()["progress"]["fraction"] == 1


def test_a_failed_job_says_why(api):
    address = ask(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    completion.finish(claim, Failed(ErrorCode.TASK_FAILED, "There is nothing to do."))
    body = api.get(address).json()
    assert body["error"] == {"code": "task_failed", "detail": "There is nothing to do."}
    answer = api.get(f"{address}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "failed")
    assert answer.json()["detail"] == "There is nothing to do."


def test_cancelling(api):
    address = ask(api)["Location"]
    assert api.post(f"{address}/cancel").json()["state"] == "cancelled"
    assert api.post(f"{address}/cancel").status_code == 200
    running = ask(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    assert api.post(f"{running}/cancel").status_code == 202
    completion.finish(claim, Succeeded())
    answer = api.post(f"{running}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_finished")


@pytest.mark.parametrize("size", [5, files.CHUNK_BYTES * 2 + 5], ids=["small", "large"])
def test_result_files_are_listed_and_downloaded(api, size):
    address = ask(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    job = Job.objects.get()
    with files.create(job, "out.csv", "text/csv; charset=utf-8") as out:
        for _ in range(size):
            out.write(b"x")
    assert api.get(address).json()["files"] == []
    completion.finish(claim, Succeeded())
    (file,) = api.get(address).json()["files"]
    assert (file["name"], file["size"]) == ("out.csv", size)
    answer = api.get(file["url"])
    assert (answer["Content-Length"], answer["Content-Type"]) == (
        str(size), "text/csv; charset=utf-8",
    )  # fmt: skip
    assert answer["Content-Disposition"] == 'attachment; filename="out.csv"'
    assert answer.getvalue() == b"x" * size
    assert api.get(f"{address}/files/other.csv").status_code == 404


def test_a_picture_may_do_nothing_but_be_seen(api):
    address = ask(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    with files.create(Job.objects.get(), "a.svg", "image/svg+xml") as out:
        out.write(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    completion.finish(claim, Succeeded())
    answer = api.get(f"{address}/files/a.svg")
    assert "sandbox" in answer["Content-Security-Policy"]
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert "Content-Disposition" not in answer


def test_tasks_say_what_they_take(anonymous_api):
    listed = anonymous_api.get("/api/v1/tasks").json()["results"]
    assert [task["name"] for task in listed] == sorted(task["name"] for task in listed)
    nap = anonymous_api.get("/api/v1/tasks/nap").json()
    assert nap["description"] == "Take some time, with progress."
    assert nap["params"] == {
        "type": "object",
        "properties": {"seconds": {"type": "number", "format": "double", "default": 0}},
    }
    assert nap["may_run"] is False
    file = anonymous_api.get("/api/v1/tasks/import_items").json()["params"]
    assert file["properties"]["file"]["format"] == "binary"
    assert file["required"] == ["file"]
    unknown = anonymous_api.get("/api/v1/tasks/nothing")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "task_not_found")


def test_the_demonstration_is_bounded_for_each_address(anonymous_api, settings):
    """Refusals cost no job: neither wrong sizes nor what comes too often."""
    wrong = anonymous_api.get("/api/v1/heavy_computation/?size=x")
    assert (wrong.status_code, list(wrong.json()["errors"])) == (400, ["size"])
    assert not Job.objects.exists()
    answers = [
        anonymous_api.get("/api/v1/heavy_computation/?size=-1").status_code
        for _ in range(40)
    ]
    # The wrong size before them was one of the thirty.
    assert answers.count(400) == 29
    assert set(answers) == {400, 429}
    last = anonymous_api.get("/api/v1/heavy_computation/")
    assert (last.status_code, last.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(last["Retry-After"]) <= 60


def test_bad_addresses_are_404(api):
    for address in ("x", "1234", f"{uuid.uuid4()}x", str(uuid.uuid4())):
        assert api.get(JOBS + address).status_code == 404


def test_the_body_of_an_answer_is_what_an_event_shows(api):
    address = ask(api)["Location"]
    answer = api.get(f"{address}/events")
    assert answer["Content-Type"] == "text/event-stream"
    (line,) = [
        line for line in answer.content.decode().splitlines() if line[:5] == "data:"
    ]
    event = json.loads(line[5:])
    body = api.get(address).json()
    assert event == {name: body[name] for name in event}
    assert {"id", "state", "progress", "attempts"} == set(event)


def test_faults_are_no_tasks_of_the_site():
    assert faults.echo.main.__module__ == "tests.compute.faults"
