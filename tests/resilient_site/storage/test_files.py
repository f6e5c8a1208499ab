"""Uploads and files of jobs in the database, in a directory, and in a bucket."""

import json
import tracemalloc
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction

from compute import files as job_files
from compute.models import Job, JobFile
from compute.registry import get_task
from items.models import ImportFile, ImportRun, Item
from resilient_site import settings as as_started
from resilient_site.resilience import chunks
from resilient_site.storage import files
from resilient_site.storage.urls import parse_storage
from tests.compute.factories import begin, do, make_job
from tests.factories import make_items
from tests.faults.proxy import Proxy
from tests.servers import S3
from tests.services_plugin import running

pytestmark = [pytest.mark.once, pytest.mark.django_db]

EXTERNAL = ["file", "s3"]
CONTENT = bytes(range(256)) * 20
LOGIN = {"access_key": "any", "secret_key": "any"}


@pytest.fixture(scope="session")
def s3():
    yield from running(S3)


@pytest.fixture
def network(s3):
    with closing(Proxy(s3.port)) as network:
        yield network


@pytest.fixture
def kept_in(settings, request, tmp_path):
    """Have files kept in the storage of this name."""

    def keep(kind):
        if kind == "database":
            return None
        url = f"file://{tmp_path}/files"
        if kind == "s3":
            network = request.getfixturevalue("network")
            url = f"s3://bucket/site?endpoint_url=http://127.0.0.1:{network.port}"
            url += "&region_name=us-east-1&addressing_style=path"
        storage = parse_storage(url)
        if kind == "s3":
            storage["OPTIONS"] |= LOGIN
        settings.STORAGES = as_started.STORAGES | {"files": storage}
        if kind == "s3":
            storages["files"].bucket.create()
            for name in objects(storages["files"]):
                storages["files"].delete(name)
        return storages["files"]

    return keep


@pytest.fixture(params=["database", *EXTERNAL])
def anywhere(request, kept_in):
    return kept_in(request.param)


@pytest.fixture(params=EXTERNAL)
def storage(request, kept_in):
    return kept_in(request.param)


def objects(storage, path=""):
    try:
        folders, names = storage.listdir(path)
    except FileNotFoundError:
        return []
    inside = [objects(storage, f"{path}{folder}/") for folder in folders]
    return [f"{path}{name}" for name in names] + sum(inside, [])


def stored(content=CONTENT, job=None):
    with job_files.create(job or make_job("running"), "out", "text/plain") as out:
        out.write(content)
    return JobFile.objects.get(name="out")


def test_content_is_read_from_any_place(anywhere, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(files, "CHUNK_BYTES", 1000)
    monkeypatch.setattr("resilient_site.storage.s3.BLOCK_BYTES", 700)
    file = stored()
    assert (file.size, file.complete) == (len(CONTENT), True)
    assert bool(file.location) == bool(anywhere)
    pieces = list(files.read(file))
    assert b"".join(pieces) == CONTENT
    assert max(map(len, pieces)) <= 1000
    assert b"".join(files.read(file, 690, 1410)) == CONTENT[690:1410]
    with files.open_file(file) as stream:
        stream.seek(3000)
        assert stream.read(5) == CONTENT[3000:3005]
        stream.seek(-3, 2)
        assert stream.read() == CONTENT[-3:]


def test_empty_file_is_complete(anywhere):
    file = stored(b"")
    assert (file.size, file.complete) == (0, True)
    assert list(files.read(file)) == []
    with files.open_file(file) as stream:
        assert stream.read() == b""


def test_write_that_fails_midway_leaves_no_reference(anywhere):
    job = make_job("running")

    def write():
        with job_files.create(job, "out", "text/plain") as out:
            out.write(CONTENT)
            raise KeyError

    with pytest.raises(KeyError):
        write()
    file = JobFile.objects.get()
    assert (file.complete, file.location) == (False, "")
    assert anywhere is None or objects(anywhere, "compute.jobfile/") == []


def test_large_file_is_streamed_in_constant_memory(anywhere):
    piece = b"x" * 2**20
    tracemalloc.start()
    try:
        with job_files.create(make_job("running"), "out", "text/plain") as out:
            for _ in range(32):
                out.write(piece)
        file = JobFile.objects.get()
        assert sum(map(len, files.read(file))) == file.size == 32 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 24 * 2**20
    finally:
        tracemalloc.stop()


def test_range_of_a_file_is_sent(anywhere, api, editor):
    job = make_job("succeeded", owner=editor)
    stored(job=job)
    response = api.get(
        f"/api/v1/jobs/{job.pk}/files/out", headers={"Range": "bytes=5-9"}
    )
    assert (response.status_code, response.content) == (206, CONTENT[5:10])


def test_page_imports_an_upload_and_leaves_its_rejects(anywhere, editor_client):
    rows = SimpleUploadedFile("items.csv", b"id,name\n1,One\nbad id,Two\n")
    location = editor_client.post("/items/-/import/", {"file": rows})["Location"]
    assert bool(ImportFile.objects.get().location) == bool(anywhere)
    editor_client.post(location)
    run = ImportRun.objects.get()
    assert (run.state, run.created, run.rejected) == ("done", 1, 1)
    rejects = editor_client.get(f"{location}rejects/").getvalue()
    assert b"bad id,Two" in rejects


def test_job_has_its_upload_and_makes_its_files(anywhere, editor):
    make_items(3)
    job = do("export_items", editor, format="ndjson")
    (file,) = job.result_files()
    assert (job.result["bytes"], bool(file.location)) == (file.size, bool(anywhere))
    rows = SimpleUploadedFile("items.csv", b"id,name\nnew,One\n")
    assert do("import_items", editor, file=rows).result["created"] == 1


# --- objects and rows


@pytest.mark.django_db(transaction=True)
def test_deletion_of_a_job_deletes_its_objects_once_it_is_committed(storage):
    file = stored()
    with transaction.atomic():
        file.job.delete()
        assert objects(storage) == [file.location]
    assert objects(storage) == []


@pytest.mark.django_db(transaction=True)
def test_object_of_a_transaction_that_was_rolled_back_is_cleaned_up(
    storage, monkeypatch
):
    kept = stored()

    def roll_back():
        with transaction.atomic():
            stored(job=make_job("running", epoch=7))
            raise KeyError

    with pytest.raises((KeyError, JobFile.MultipleObjectsReturned)):
        roll_back()
    assert len(objects(storage)) == 2
    assert files.delete_orphans(JobFile) == 0  # its transaction may still be open
    monkeypatch.setattr(files, "ORPHANED_AFTER", timedelta(days=-2))
    assert files.delete_orphans(ImportFile) == 0
    assert files.delete_orphans(JobFile) == 1
    assert objects(storage) == [kept.location]


def test_file_is_unavailable_once_its_storage_is_no_longer_set(
    kept_in, settings, api, editor
):
    kept_in("file")
    job = make_job("succeeded", owner=editor)
    stored(job=job)
    settings.STORAGES = as_started.STORAGES
    read = api.get(f"/api/v1/jobs/{job.pk}/files/out")
    assert (read.status_code, read.json()["code"]) == (503, "files_unavailable")


# --- a bucket that does not answer


@pytest.fixture(params=["refused", "silent"])
def away(request, kept_in, network, monkeypatch, settings):
    """Make the bucket be away in the block that is entered."""
    monkeypatch.setattr(files, "_paused_until", 0.0)
    kept_in("s3")
    is_silent = request.param == "silent"

    def enter(stack):
        network.hold() if is_silent else network.refuse()
        stack.callback(network.let_go if is_silent else network.accept)
        # A busy machine is not taken for a silent bucket before and after.
        hasty = stack.enter_context(pytest.MonkeyPatch.context())
        hasty.setattr("resilient_site.storage.s3.READ_TIMEOUT_S", 0.2)
        hasty.setattr("resilient_site.storage.s3.ATTEMPTS", 1)
        make_anew()

    def make_anew():
        """Have the storage made by the present limits of time."""
        settings.STORAGES = {**settings.STORAGES}

    @contextmanager
    def is_away():
        with ExitStack() as stack:
            enter(stack)
            yield
        make_anew()

    return is_away


def test_request_is_503_and_writes_nothing_while_the_bucket_is_away(
    away, api, editor, editor_client
):
    job = make_job("succeeded", owner=editor)
    stored(job=job)
    with away():
        read = api.get(f"/api/v1/jobs/{job.pk}/files/out")
        rows = {"file": SimpleUploadedFile("items.csv", b"id,name\n1,One\n")}
        page = editor_client.post("/items/-/import/", rows)
        rows["file"].seek(0)
        sent = api.post("/api/v1/jobs", {"task": "import_items", **rows}, "multipart")
    for response in (read, sent):
        assert response.status_code == 503
        assert json.loads(response.content)["code"] == "files_unavailable"
    assert page.status_code == 503
    assert b"storage of files does not answer" in page.content
    assert Job.objects.get() == job
    assert not ImportRun.objects.exists()


def test_job_is_tried_again_while_the_bucket_is_away(away, editor):
    task, context = (
        get_task("export_items"),
        begin("export_items", editor, format="csv"),
    )
    # Which is no TaskFailed, so the pool retries it.
    with away(), pytest.raises(files.FilesUnavailable):
        task.main(context, **context.claim.params)
    assert task.main(context, **context.claim.params)["rows"] == Item.objects.count()


@pytest.mark.django_db(transaction=True)
def test_job_is_deleted_while_the_bucket_is_away_and_its_object_later(
    away, monkeypatch
):
    storage, file = storages["files"], stored()
    monkeypatch.setattr(files, "ORPHANED_AFTER", timedelta(days=-2))
    with away():
        file.job.delete()
        assert files.delete_orphans(JobFile) == 0
    assert not Job.objects.exists()
    files.delete_orphans(JobFile)  # if what was silent has not deleted it meanwhile
    assert objects(storage) == []


def test_doctor_reports_whether_the_storage_answers(away):
    with away():
        (found,) = files.examine()
        assert (found.level, "FILES_URL" in found.todo) == ("failure", True)
    assert [one.level for one in files.examine()] == ["ok"]


# --- the setting


def test_url_names_the_storage():
    assert parse_storage("") is parse_storage("database:") is None
    assert parse_storage("file:///srv/a%20b")["OPTIONS"]["location"] == "/srv/a b"
    found = parse_storage("s3://bucket/a/b?endpoint_url=http://h:1&region_name=r")
    assert found["OPTIONS"] == {
        "bucket_name": "bucket", "location": "a/b",
        "endpoint_url": "http://h:1", "region_name": "r",
    }  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "file://relative",
        "file:",
        "ftp://h",
        "s3://b?x=1",
        "s3://b?region_name",
        "s3://key:secret@b",
        "s3://[b",
        "s3://b/a//b",
        "s3://b/../a",
        "s3://b?endpoint_url=h:1",
        "s3://b?addressing_style=x",
        "file:///a#b",
        "file:///a?b=c",
        "file:///a%00b",
    ],  # fmt: skip
)
def test_malformed_url_is_reported_by_the_name_of_its_setting(url):
    with pytest.raises(ImproperlyConfigured, match="FILES_URL"):
        parse_storage(url)
