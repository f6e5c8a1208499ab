"""Jobs over REST."""

import random
import uuid

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from compute import completion, files, jobs, queue
from compute.models import Job, JobFile
from compute.outcomes import Failed, Succeeded
from compute.registry import get_task
from tests.compute.factories import make_file
from tests.factories import allow

pytestmark = pytest.mark.once

JOBS = "/api/v1/jobs/"


def client_of(user: User) -> APIClient:
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def api(reader) -> APIClient:
    return client_of(reader)


def submit(api: APIClient, task: str = "echo", headers: dict | None = None, **params):
    body = {"task": task, "params": params}
    return api.post(JOBS, body, headers=headers or {})


def finish_next(result: object = None) -> Job:
    """Complete the next job."""
    (claim,) = queue.claim("worker", 1)
    completion.finish(claim, Succeeded(result))
    return Job.objects.get(pk=claim.job_id)


def test_submission_is_202_with_location(api, reader):
    response = submit(api, headers={"Prefer": "respond-async, wait=100"}, number=7)
    job = Job.objects.get()
    assert response.status_code == 202
    assert response["Location"] == f"http://testserver/api/v1/jobs/{job.pk}"
    assert int(response["Retry-After"]) >= 1
    assert response["Preference-Applied"] == "respond-async, wait=60"
    body = response.json()
    assert set(body) == {
        "id", "task", "params", "state", "progress", "attempts", "result", "error",
        "created_at", "started_at", "finished_at", "links", "files",
    }  # fmt: skip
    assert (body["id"], body["task"], body["state"]) == (str(job.pk), "echo", "queued")
    assert body["params"] == {"number": 7}
    assert body["progress"] == {"fraction": 0, "message": ""}
    assert (job.owner, job.request_id) == (reader, response["X-Request-ID"])


UNKNOWN = {"task": ["There is no such task."]}


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, UNKNOWN),
        ({"task": "nothing"}, UNKNOWN),
        ({"task": ["echo"]}, UNKNOWN),
        ({"task": "echo", "params": [1]}, {"params": ["Must be an object."]}),
        ({"task": "import_items"}, {"params": {"file": ["No file was submitted."]}}),
        (
            {"task": "import_items", "params": {"columns": ["a=", ""]}},
            {
                "params": {
                    "file": ["No file was submitted."],
                    "columns": {"1": ["This field may not be blank."]},
                }
            },
        ),
        ([], None),
    ],
    ids=str,
)
def test_invalid_submission_names_its_errors(editor, body, errors):
    response = client_of(editor).post(JOBS, body)
    assert response.status_code == 400
    assert response.json().get("errors") == errors
    assert not Job.objects.exists()


def test_client_without_permission_is_401_or_403(anonymous_api, api):
    for params in ({}, {"unknown": 1}):
        response = submit(api, "for_editors", **params)
        assert response.status_code == 403
        assert response.json()["code"] == "permission_denied"
    for url in (JOBS, f"{JOBS}{uuid.uuid4()}"):
        assert anonymous_api.get(url).status_code == 401
    # DRF raises the error of those above, the site this one.
    response = submit(anonymous_api)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == 'Bearer realm="api"'


@pytest.mark.parametrize("in_memory_max", [1_000, 10_000])
def test_file_is_submitted_as_a_form_which_may_be_larger(
    editor, settings, in_memory_max
):
    """Other bodies are read into memory."""
    settings.MAX_BODY_BYTES, settings.IMPORT_MAX_BYTES = 1_000, 10_000
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = in_memory_max
    api = client_of(editor)
    large = {"task": "echo", "params": {"x": "x" * 2_000}}
    response = api.post(JOBS, large)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    content = b"id,name\n" + b"1,x\n" * 1_000
    upload = SimpleUploadedFile("my.csv", content, "text/csv")
    response = api.post(JOBS, {"task": "import_items", "file": upload}, "multipart")
    assert response.status_code == 202
    assert response.json()["params"]["file"] == "my.csv"
    assert b"".join(files.read(JobFile.objects.get(kind="input"))) == content
    assert not Job.objects.filter(task="echo").exists()


@pytest.mark.parametrize("kind", ["application/" + "x" * 160, "te\x01xt"])
def test_type_of_a_file_that_cannot_be_stored_is_not(editor, kind):
    upload = SimpleUploadedFile("my.csv", b"id,name\n1,x\n", kind)
    body = {"task": "import_items", "file": upload}
    assert client_of(editor).post(JOBS, body, "multipart").status_code == 202
    assert JobFile.objects.get().content_type == "application/octet-stream"


def test_idempotency_key_creates_one_job(api):
    one = submit(api, headers={"Idempotency-Key": "k"}, number=1)
    same = submit(api, headers={"Idempotency-Key": "k"}, number=1)
    assert one.json()["id"] == same.json()["id"]
    assert same.status_code == 202
    other = submit(api, headers={"Idempotency-Key": "k"}, number=2)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    finish_next()
    assert submit(api, headers={"Idempotency-Key": "k"}, number=1).status_code == 200
    long = submit(api, headers={"Idempotency-Key": "k" * 300})
    assert (long.status_code, list(long.json()["errors"])) == (400, ["Idempotency-Key"])
    assert Job.objects.count() == 1


def test_others_jobs_are_seen_and_cancelled_with_permissions(api, reader, editor):
    submit(api)
    other = jobs.submit(task=get_task("echo"), params={"number": 1}, owner=editor)
    assert len(api.get(JOBS).json()["results"]) == 1
    for action in ("", "/events", "/result", "/files/x"):
        response = api.get(f"{JOBS}{other.pk}{action}")
        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")
    assert api.post(f"{JOBS}{other.pk}/cancel").status_code == 404
    for wrong in ("x", f"{uuid.uuid4()}x", str(uuid.uuid4())):
        assert api.get(JOBS + wrong).status_code == 404
    # Staff without a permission sees no more.
    User.objects.filter(pk=reader.pk).update(is_staff=True)
    staff = client_of(User.objects.get(pk=reader.pk))
    assert staff.get(f"{JOBS}{other.pk}").status_code == 404
    allow(reader, "view_job")
    viewer = client_of(User.objects.get(pk=reader.pk))
    assert len(viewer.get(JOBS).json()["results"]) == 2
    assert viewer.get(f"{JOBS}{other.pk}").status_code == 200
    assert viewer.post(f"{JOBS}{other.pk}/cancel").status_code == 403
    assert Job.objects.get(pk=other.pk).state == "queued"
    allow(reader, "change_job")
    operator = client_of(User.objects.get(pk=reader.pk))
    assert operator.post(f"{JOBS}{other.pk}/cancel").json()["state"] == "cancelled"


def test_list_is_paged_without_results_and_filtered(api, django_assert_num_queries):
    submit(api, "nap")
    finish_next({"x": 1})
    for number in range(5):
        submit(api, number=number)
    api.get(JOBS)  # permissions come with a verified token
    with django_assert_num_queries(1):
        page = api.get(f"{JOBS}?page_size=2").json()
    assert [job["params"]["number"] for job in page["results"]] == [4, 3]
    page = api.get(page["next"]).json()
    assert [job["params"]["number"] for job in page["results"]] == [2, 1]

    for query in ("state=succeeded", "task=nap"):
        results = api.get(f"{JOBS}?{query}").json()["results"]
        assert [job["task"] for job in results] == ["nap"]
        assert "result" not in results[0]
    wrong = api.get(f"{JOBS}?state=lazy&task=x")
    assert wrong.status_code == 400
    assert set(wrong.json()["errors"]) == {"state", "task"}


def test_result_is_409_until_the_job_has_succeeded(api):
    url = submit(api, number=3)["Location"]
    early = api.get(f"{url}/result")
    assert (early.status_code, early.json()["code"]) == (409, "not_finished")
    assert "Retry-After" in early
    finish_next({"number": 3})
    assert api.get(f"{url}/result").json() == {"number": 3}
    assert api.get(url).json()["result"] == {"number": 3}
    assert api.get(url).json()["progress"]["fraction"] == 1

    url = submit(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    completion.finish(claim, Failed("task_failed", "There is nothing to do."))
    body = api.get(url).json()
    assert body["error"] == {"code": "task_failed", "detail": "There is nothing to do."}
    response = api.get(f"{url}/result")
    assert (response.status_code, response.json()["code"]) == (409, "failed")
    assert response.json()["detail"] == "There is nothing to do."


def test_cancel_is_idempotent_and_409_after_the_end(api):
    url = submit(api)["Location"]
    assert api.post(f"{url}/cancel").json()["state"] == "cancelled"
    assert api.post(f"{url}/cancel").status_code == 200
    url = submit(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    assert api.post(f"{url}/cancel").status_code == 202
    completion.finish(claim, Succeeded())
    response = api.post(f"{url}/cancel")
    assert (response.status_code, response.json()["code"]) == (409, "already_finished")


def test_result_files_are_listed_and_downloaded(api):
    size = 2 * files.CHUNK_BYTES + 5
    url = submit(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    make_file(Job.objects.get(), "out.csv", b"x" * size, "text/csv; charset=utf-8")
    make_file(Job.objects.get(), "a.txt", b"a")
    assert api.get(url).json()["files"] == []
    completion.finish(claim, Succeeded())
    small, file = sorted(api.get(url).json()["files"], key=lambda file: file["size"])
    assert (file["name"], file["size"]) == ("out.csv", size)
    response = api.get(file["url"])
    assert (response["Content-Length"], response["Content-Type"]) == (
        str(size), "text/csv; charset=utf-8",
    )  # fmt: skip
    assert response["Content-Disposition"] == 'attachment; filename="out.csv"'
    assert response.getvalue() == b"x" * size
    assert api.get(f"{url}/files/other.csv").status_code == 404
    assert api.get(small["url"]).content == b"a"


SIZE = files.CHUNK_BYTES + 10
LAST = SIZE - 1


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("Bytes=5-5", 5, 5),
        (f"bytes={SIZE - 12}-", SIZE - 12, LAST),  # of two chunks
        (f"bytes=1-{10**14}", 1, LAST),
        ("bytes=-7", SIZE - 7, LAST),
        (f"bytes=-{10**14}", 0, LAST),
    ],
)
def test_range_of_a_result_file_is_206(api, header, first, last):
    url, content = stored_file(api)
    response = api.get(url, headers={"Range": header})
    body = response.getvalue()
    assert (response.status_code, body) == (206, content[first : last + 1])
    assert response["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert response["Content-Length"] == str(len(body))
    whole = api.head(url, headers={"Range": header})
    assert (whole.status_code, whole["Accept-Ranges"]) == (200, "bytes")
    for condition, status in ((response["ETag"], 206), ('"other"', 200)):
        headers = {"Range": header, "If-Range": condition}
        assert api.get(url, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"bytes={SIZE}-", 416),
        ("bytes=-0", 416),
        ("bytes=9-5", 200),
        ("bytes=0-1,5-6", 200),
        ("bytes=-", 200),
        ("bytes=a-b", 200),
        ("rows=0-9", 200),
        ("bytes=" + "9" * 5000 + "-", 200),
    ],
    ids=lambda value: str(value)[:20],
)
def test_range_that_cannot_be_sent_is_416_or_ignored(api, header, status):
    url, _ = stored_file(api)
    response = api.get(url, headers={"Range": header})
    assert response.status_code == status
    if status == 416:
        assert response["Content-Range"] == f"bytes */{SIZE}"
        assert response.json()["code"] == "range_not_satisfiable"
    else:
        assert response["Content-Length"] == str(SIZE)


def stored_file(api) -> tuple[str, bytes]:
    """Return the URL and the content of a file of a finished job."""
    url = submit(api)["Location"]
    (claim,) = queue.claim("worker", 1)
    content = random.Random(1).randbytes(SIZE)
    make_file(Job.objects.get(), "out.bin", content)
    completion.finish(claim, Succeeded())
    return f"{url}/files/out.bin", content


def test_tasks_have_the_schema_of_their_parameters(anonymous_api):
    listed = anonymous_api.get("/api/v1/tasks").json()["results"]
    assert [task["name"] for task in listed] == sorted(task["name"] for task in listed)
    echo = anonymous_api.get("/api/v1/tasks/echo").json()
    assert echo["description"] == "Give the number back."
    assert echo["params"] == {
        "type": "object",
        "properties": {"number": {"type": "integer", "default": 0}},
    }
    assert echo["may_run"] is False
    file = anonymous_api.get("/api/v1/tasks/import_items").json()["params"]
    assert file["properties"]["file"]["format"] == "binary"
    assert file["required"] == ["file"]
    unknown = anonymous_api.get("/api/v1/tasks/nothing")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "task_not_found")


def test_demonstration_rejects_an_invalid_size(anonymous_api):
    for size in ("x", "-1"):
        wrong = anonymous_api.get(f"/api/v1/heavy_computation/?size={size}")
        assert (wrong.status_code, list(wrong.json()["errors"])) == (400, ["size"])
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("client", "largest"),
    [("anonymous_api", 800_000_000), ("api", 4_000_000_000)],
)
def test_demonstration_has_a_largest_size(client, largest, request):
    api = request.getfixturevalue(client)
    path = "/api/v1/heavy_computation?size="
    wrong = api.get(f"{path}{largest + 1}")
    assert (wrong.status_code, list(wrong.json()["errors"])) == (400, ["size"])
    assert not Job.objects.exists()
    assert api.get(f"{path}{largest}").status_code == 503  # nobody waits under WSGI
    assert Job.objects.get().params == {"size": largest}


def test_unknown_members_of_a_job_are_rejected_or_ignored(api, editor, reader):
    request = {"task": "heavy_computation", "params": {}}
    theirs = {"owner": editor.pk, "state": "succeeded", "attempts": 5, "id": "1"}
    for body, unknown in (
        (request | theirs, set(theirs)),
        (request | {"params": {"sise": 10}}, {"params"}),
    ):
        refused = api.post(JOBS, body)
        assert (refused.status_code, refused.json()["code"]) == (400, "unknown_field")
        assert set(refused.json()["errors"]) == unknown
    assert "“size”" in str(refused.json()["errors"]["params"]["sise"])
    assert not Job.objects.exists()

    lenient = {"Prefer": "handling=lenient, wait=0"}
    made = api.post(JOBS, request | theirs, headers=lenient)
    assert made["Preference-Applied"] == "wait=0, handling=lenient"
    job = Job.objects.get()
    assert made.status_code == 202
    assert (job.owner, job.state, job.attempts) == (reader, "queued", 0)
