"""An import through the page: upload, preview, apply, and what can go wrong."""

import errno
import gzip
import math
import os
from html import unescape
from unittest.mock import Mock

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from items import catalogue
from items.imports import file_lines, previews, uploads
from items.models import (
    ChangeBatch,
    ImportFile,
    ImportFileChunk,
    ImportRun,
    Item,
    PreviewRow,
)
from resilient_site.resilience import chunks
from tests.factories import make_item
from tests.items.imports.cases import CASES, Case, workbook

pytestmark = [pytest.mark.once, pytest.mark.django_db]

OPTIONS = {"duplicates": "reject", "missing": "keep"}
CSV = b"id,name,tags\n1,One,a b\n2,Two,\nbad id,Three,\n"


@pytest.fixture(autouse=True)
def own_folder(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return tmp_path


def upload(client, content: bytes, name: str = "items.csv"):
    file = SimpleUploadedFile(name, content)
    return client.post("/items/-/import/", {"file": file})


def test_upload_is_previewed_then_applied(editor_client, own_folder):
    make_item(id="1", name="One", description="", tags=["a"])

    response = upload(editor_client, CSV)
    run = ImportRun.objects.get()
    assert response["Location"] == f"/items/-/import/{run.pk}/"
    page = editor_client.get(response["Location"])
    preview = page.context["run"].preview
    numbers = [preview[k] for k in ("created", "updated", "unchanged", "rejected")]
    assert numbers == [1, 1, 0, 1]
    rejected = editor_client.get(f"{response['Location']}?show=rejected")
    assert "bad id" in rejected.content.decode()
    assert Item.objects.count() == 1

    response = editor_client.post(f"/items/-/import/{run.pk}/", follow=True)
    run.refresh_from_db()
    assert run.state == "done"
    assert (run.created, run.updated, run.rejected) == (1, 1, 1)
    assert catalogue.get_item("1").tag_names() == ["a", "b"]
    assert catalogue.get_item("2").name == "Two"
    assert list(run.files.values_list("kind", flat=True)) == ["rejects"]

    # Posted again after the end, it does nothing.
    assert editor_client.post(f"/items/-/import/{run.pk}/").status_code == 302
    assert Item.objects.count() == 2
    rejects = editor_client.get(f"/items/-/import/{run.pk}/rejects/")
    assert b'bad id,Three,,4,"id: May have' in rejects.getvalue()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_page_reads_files_as_others_write_them(
    editor_client, case: Case, own_folder, monkeypatch
):
    monkeypatch.setattr(uploads, "SLICE_SECONDS", math.inf)
    response = upload(editor_client, case.content, "items.file")
    if case.error and response.status_code == 422:
        assert case.error in response.content.decode()
        assert not ImportFile.objects.exists()
        return
    location = response["Location"]
    page = editor_client.get(location)
    if case.error:
        shown = page.content.decode()
        assert case.error in shown
        assert '<button class="primary">Import<' not in shown
        assert shown.index("Preview again") < shown.index("Cancel")
        return
    if case.chosen:
        data = {field.html_name: field.initial for field in page.context["form"]}
        chosen = dict(case.chosen)
        columns = chosen.pop("columns", {})
        for field in page.context["form"]:
            for name, to in columns.items():
                if name in field.label:
                    assert data[field.html_name] == (to or "-")  # as suggested
        response = editor_client.post(f"{location}options/", data | chosen, follow=True)
        assert response.status_code == 200
        page = editor_client.get(location)
    assert case.found in unescape(page.content.decode())
    assert page.context["run"].preview["rejected"] == case.rejected
    response = editor_client.post(location, follow=True)
    while ImportRun.objects.filter(state="running").exists():  # a part at a time
        response = editor_client.post(location, follow=True)
    run = ImportRun.objects.get()
    assert (run.state, run.rejected) == ("done", case.rejected)
    assert case.found in unescape(response.content.decode())
    found = {item.pk: (item.name, item.description) for item in Item.objects.all()}
    assert found == case.items
    assert set(run.files.values_list("kind", flat=True)) <= {"rejects"}
    assert not list(own_folder.glob("imports/*"))


def test_option_that_does_not_fit_the_file_leaves_the_preview(editor_client):
    location = upload(editor_client, b"name\n\x80\n")["Location"]
    for encoding, status in (("no such", 422), ("utf-16", 422), ("cp1251", 302)):
        data = OPTIONS | {"encoding": encoding, "column-0": "name"}
        response = editor_client.post(f"{location}options/", data)
        assert response.status_code == status
    assert PreviewRow.objects.get().name == "Ђ"
    editor_client.post(location)
    assert editor_client.post(f"{location}options/", data).status_code == 302
    assert ImportRun.objects.get().state == "done"


def test_file_that_turns_out_damaged_ends_the_import(editor_client, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    rows = b"".join(b'{"name": "n%d"}' % n + b",\n" for n in range(9))
    content = b"[" + rows + b"{]"
    # It does not come to the damage.
    monkeypatch.setattr(previews, "INLINE_SECONDS", -1)
    location = upload(editor_client, content)["Location"]
    # Written out as lines, to the place of the damage, then not again for each slice.
    for _ in range(9):
        response = editor_client.post(location, follow=True)
    assert ImportRun.objects.get().state == "failed"
    assert "damaged after entry 9" in response.content.decode()


def test_large_workbook_is_applied_in_slices(editor_client, monkeypatch, own_folder):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    rows = [["id", "name"], *([f"i{n}", "a\nb" if n == 3 else "a"] for n in range(5))]
    rows.append(["i1", "again"])
    location = upload(editor_client, workbook(rows), "x.xlsx")["Location"]
    read = Mock(wraps=file_lines._sheet_rows)
    monkeypatch.setattr(file_lines, "_sheet_rows", read)
    for _ in range(5):
        editor_client.post(location)
    run = ImportRun.objects.get()
    assert (run.state, run.created, run.rejected, read.call_count) == ("done", 4, 2, 1)
    rejects = editor_client.get(f"{location}rejects/").getvalue().decode()
    assert 'i3,"a\nb",5,name: Must be one line' in rejects
    assert "i1,again,7,id: The id is in line 3 already." in rejects


def test_conversion_to_lines_leaves_nothing_when_it_fails(
    editor_client, monkeypatch, own_folder, settings
):
    """Because of the limit, and because the disk is full."""
    monkeypatch.setattr(previews, "INLINE_SECONDS", -1)
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 1)
    rows = [["id", "name"], ["a", "a"], *[["b", "x" * 9_000]] * 200]
    location = upload(editor_client, workbook(rows), "x.xlsx")["Location"]
    with monkeypatch.context() as patched:
        full = OSError(errno.ENOSPC, "No space left on device")
        patched.setattr(file_lines.orjson, "dumps", Mock(side_effect=full))
        assert editor_client.post(location).status_code == 503
    assert list(ImportFile.objects.values_list("kind", flat=True)) == ["upload"]
    settings.IMPORT_MAX_BYTES = 300_000
    read = Mock(wraps=file_lines._cell_text)
    monkeypatch.setattr(file_lines, "_cell_text", read)
    response = editor_client.post(location, follow=True)
    assert "more than 300,000 bytes" in response.content.decode()
    assert ImportRun.objects.get().state == "failed"
    assert read.call_count < 200
    assert not ImportFile.objects.exists()
    assert not ImportFileChunk.objects.exists()


def test_large_upload_is_applied_in_slices(editor_client, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    content = b"name\n" + b"".join(b"n%d\n" % n for n in range(5))
    location = upload(editor_client, gzip.compress(content), "x.gz")["Location"]

    headers = {"HX-Request": "true"}
    states = []
    while "done" not in states:
        response = editor_client.post(location, headers=headers)
        run = response.context["run"]
        states.append(run.state)
        assert b"<html" not in response.content
    assert states == ["running", "running", "running", "done"]
    assert (run.percent, Item.objects.count()) == (100, 5)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04no", b"\x1f\x8bno", b"\x89PNG", b'"na\n', b""]
)
def test_upload_of_another_file_is_rejected_and_deleted(
    editor_client, own_folder, content
):
    response = upload(editor_client, content)
    assert response.status_code == 422
    assert "file" in response.context["form"].errors
    assert not ImportRun.objects.exists()
    assert not ImportFileChunk.objects.exists()


def test_row_that_no_database_can_store_is_shown_as_rejected(editor_client):
    content = b"id,name,tags\nnull,a,a\0b\nbytes,M\x81ller,\nok,ok,\n"
    location = upload(editor_client, content)["Location"]
    page = editor_client.get(location)
    assert page.context["run"].preview["rejected"] == 2
    editor_client.post(location)
    assert Item.objects.get().pk == "ok"


def test_upload_over_the_limit_is_413(editor_client, settings):
    settings.IMPORT_MAX_BYTES = 300
    response = upload(editor_client, b"name\n" + b"x" * 1000)
    assert response.status_code == 413
    settings.IMPORT_MAX_BYTES, settings.MAX_BODY_BYTES = 10_000, 300
    assert upload(editor_client, b"name\n" + b"x" * 100).status_code == 302


def test_missing_upload_is_reported_when_applied(editor_client):
    location = upload(editor_client, b"name\na\n")["Location"]
    ImportFile.objects.all().delete()
    response = editor_client.post(location)
    assert response.status_code == 400
    assert "upload it again" in response.content.decode()


def test_upload_on_a_full_disk_is_503_and_deleted(editor_client, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("items.imports.comparing.preview", fail)
    response = upload(editor_client, b"name\na\n")
    assert response.status_code == 503
    assert b"disk of the site is full" in response.content
    assert not ImportRun.objects.exists()


def test_upload_on_one_machine_is_imported_on_others(
    editor_client, monkeypatch, settings, tmp_path
):
    """Each request is for another machine, with nothing but the database in common."""
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    rows = [["id", "name"], *([f"i{n}", "a"] for n in range(5)), ["i0", "again"]]
    location = upload(editor_client, workbook(rows), "x.xlsx")["Location"]
    for number in range(5):
        settings.DATA_DIR = tmp_path / str(number)
        editor_client.post(location)
    run = ImportRun.objects.get()
    assert (run.state, run.created, run.rejected) == ("done", 5, 1)
    rejects = editor_client.get(f"{location}rejects/").getvalue().decode()
    assert "i0,again,7,id: The id is in line 2 already." in rejects


def test_request_that_is_killed_leaves_nothing_half_written(editor_client, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    content = b"id,name\n1,One\nbad id,Two\n3,Three\nbad id,Four\n"
    location = upload(editor_client, content)["Location"]

    class PowerCut(BaseException):
        pass

    append = chunks.append

    def fail(file, data):
        size = append(file, data)
        if Item.objects.count() == 2:
            raise PowerCut  # within the second batch
        return size

    with monkeypatch.context() as patched:
        patched.setattr(chunks, "append", fail)
        with pytest.raises(PowerCut):
            editor_client.post(location)
    assert Item.objects.count() == 1
    editor_client.post(location)
    rejects = editor_client.get(f"{location}rejects/").getvalue().decode()
    assert [line[:11] for line in rejects.splitlines()[1:]] == [
        "bad id,Two,", "bad id,Four"
    ]  # fmt: skip
    assert Item.objects.count() == 2


def test_upload_that_is_cut_off_is_not_previewed(editor_client, monkeypatch):
    class PowerCut(BaseException):
        pass

    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4)
    monkeypatch.setattr(chunks.Writer, "close", Mock(side_effect=PowerCut))
    monkeypatch.setattr(ImportRun, "delete", Mock(side_effect=PowerCut))
    with pytest.raises(PowerCut):
        upload(editor_client, b"name\na\n")
    run = ImportRun.objects.get()
    assert run.files.get().chunks.exists()
    response = editor_client.post(f"/items/-/import/{run.pk}/")
    assert response.status_code == 400
    assert not Item.objects.exists()


def test_import_run_is_visible_to_its_owner_only(client, editor_client, admin):
    location = upload(editor_client, b"name\na\n")["Location"]
    client.force_login(admin)
    assert client.get(location).status_code == 404
    assert client.post(location).status_code == 404
    assert not Item.objects.exists()


def test_abandoned_uploads_are_deleted(editor_client, own_folder, settings):
    upload(editor_client, b"name\na\n")
    run = ImportRun.objects.get()
    run.started_at -= uploads.RETENTION * 2
    run.save()
    # Of an earlier release, or of a run that another machine has finished.
    (own_folder / "imports").mkdir(exist_ok=True)
    old, new = (own_folder / "imports" / name for name in ("old.data", "new.ids"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    upload(editor_client, b"name\nb\n")
    assert (old.exists(), new.exists()) == (False, True)
    assert ImportRun.objects.count() == ImportFileChunk.objects.count() == 1


def test_files_of_one_person_that_wait_are_limited(editor_client, monkeypatch):
    monkeypatch.setattr(uploads, "WAITING_MAX", 2)
    done = upload(editor_client, b"id,name\na,a\n")["Location"]
    editor_client.post(done)
    places = [upload(editor_client, b"name\na\n")["Location"] for _ in range(3)]
    assert editor_client.get(places[0]).status_code == 404
    for place in (done, *places[1:]):
        assert editor_client.get(place).status_code == 200


@pytest.mark.parametrize(("content", "kept"), [(b"name\na\nb\n", 1), (b"id\n \n", 0)])
def test_batch_of_an_import_that_is_abandoned_is_ended(
    editor_client, monkeypatch, content, kept
):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 1)
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    editor_client.post(upload(editor_client, content)["Location"])
    run = ImportRun.objects.get()
    assert run.state == "running"
    assert run.batch.finished_at is None
    ImportRun.objects.update(started_at=run.started_at - uploads.RETENTION)
    assert uploads.delete_abandoned() == 1
    assert ChangeBatch.objects.filter(finished_at__isnull=False).count() == kept
    assert ChangeBatch.objects.count() == kept
