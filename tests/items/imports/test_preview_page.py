"""The page of a preview: what is chosen, shown and remembered, and long files."""

from html import unescape

import pytest
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile

from compute import completion
from compute.jobs import QueueFull
from compute.models import Job
from compute.registry import get_task, list_tasks_for
from items.collections import editing
from items.imports import previews
from items.models import ImportMapping, ImportRun, Item, PreviewRow
from resilient_site.accounts.actor import Actor
from tests.compute.factories import claim, end
from tests.factories import make_item
from tests.items.imports.cases import workbook

pytestmark = [pytest.mark.django_db, pytest.mark.once]

ATTRIBUTES = {
    "length_mm": {"type": "integer", "title": "Length"},
    "metal": {"type": "string"},
}
OPTIONS = {"collection": "bolts", "duplicates": "reject", "missing": "keep"}


@pytest.fixture(autouse=True)
def bolts(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    schema = {"properties": ATTRIBUTES}
    data = {"key": "bolts", "name": "Bolts", "schema": schema}
    collection = editing.create_collection(data)
    for code, length in (("M8", 40), ("M6", 30), ("M4", 20)):
        attributes = {"length_mm": length}
        make_item(collection="bolts", code=code, name=code, attributes=attributes)
    return collection


def upload(client, content: bytes | str, name: str = "bolts.csv", **data) -> str:
    raw = content.encode() if isinstance(content, str) else content
    sent = {"collection": "bolts", "file": SimpleUploadedFile(name, raw)} | data
    return client.post("/items/-/import/", sent)["Location"]


def text_of(response) -> str:
    return unescape(response.content.decode())


def choose(client, location: str, **chosen):
    """Send the form of the options as the page has it, but for what is chosen."""
    form = client.get(location).context["form"]
    data = {bound.html_name: bound.initial for bound in form}
    by_column = {f"column-{n}": to for n, to in chosen.pop("columns", {}).items()}
    return client.post(f"{location}options/", data | chosen | by_column, follow=True)


CONTENT = "Code;Länge;Werkstoff;name\nM8;41;steel;M8\nM10;50;;M10\nM4;x;;M4\nM6;;;M6\n"


def preview_bolts(client) -> str:
    location = upload(client, CONTENT)
    columns = {1: "attributes.length_mm", 2: "-"}
    assert choose(client, location, columns=columns).status_code == 200
    return location


def test_columns_are_assigned_to_fields_attributes_and_labels(editor_client):
    location = upload(editor_client, "Code,Length,Deutsch,name_fr,Foo\n")
    page = editor_client.get(location)
    assert "Choose below what each column is" in text_of(page)
    initial = [bound.initial for _, bound in page.context["form"].columns()]
    assert initial == ["code", "attributes.length_mm", "labels.de", "labels.fr", "-"]
    labels = [
        label
        for _, group in page.context["form"]["column-0"].field.choices[1:]
        for _, label in group
    ]
    assert {"Code", "Length", "Metal", "Label: German (de)"} <= {*labels}


def test_preview_shows_the_rows_of_each_kind_cell_by_cell(editor_client):
    location = preview_bolts(editor_client)
    page = editor_client.get(location)
    assert [(tab.kind, tab.number) for tab in page.context["tabs"]] == [
        ("new", 1), ("changed", 2), ("unchanged", 0), ("rejected", 1)
    ]  # fmt: skip
    assert page.context["shown"].kind == "new"

    changed = editor_client.get(f"{location}?show=changed").context["rows"]
    assert [(row.item_id, row.line, cells) for row, cells in changed] == [
        ("bolts.M8", 2, [("Length", "40", "41")]),
        ("bolts.M6", 5, [("Length", "30", "")]),
    ]
    rejected = editor_client.get(f"{location}?show=rejected")
    assert "Length" in text_of(rejected) or "length_mm" in text_of(rejected)
    assert "M4" in text_of(rejected)
    empty = editor_client.get(f"{location}?show=unchanged")
    assert "None." in text_of(empty)
    # What is no kind shows the first one that has rows.
    other = editor_client.get(f"{location}?show=<b>")
    assert other.context["shown"].kind == "new"


def test_columns_of_a_collection_are_remembered_from_its_last_import(editor_client):
    location = preview_bolts(editor_client)
    assert not ImportMapping.objects.exists()
    editor_client.post(location)
    remembered = ImportMapping.objects.get().columns
    assert remembered["länge"] == "attributes.length_mm"
    assert remembered["werkstoff"] == ""

    again = editor_client.get(upload(editor_client, CONTENT))
    assert not again.context["preview"]["problem"]
    assert again.context["preview"]["unchanged"] == 3
    # A new column is to be chosen; the others are suggested as they were.
    more = editor_client.get(upload(editor_client, "Länge;Code;Foo\n1;M8;\n"))
    initial = [bound.initial for _, bound in more.context["form"].columns()]
    assert initial == ["attributes.length_mm", "code", "-"]
    # Other collections have other columns.
    other = editor_client.get(upload(editor_client, CONTENT, collection=""))
    assert other.context["preview"]["problem"]


def test_another_collection_or_separator_has_the_columns_chosen_anew(editor_client):
    location = preview_bolts(editor_client)
    page = choose(editor_client, location, collection="")
    assert page.context["preview"]["problem"]
    page = choose(editor_client, location, collection="bolts", delimiter=",")
    assert page.context["preview"]["columns"] == ["Code;Länge;Werkstoff;name"]


@pytest.mark.parametrize(("action", "left"), [("retire", 3), ("delete", 2)])
def test_collection_is_made_equal_only_with_the_number_that_was_shown(
    editor_client, action, left
):
    location = upload(editor_client, "code,name\nM8,M8\nM6,New\n")
    page = choose(editor_client, location, missing=action)
    assert f"Import, and {action} 1 item" in text_of(page)
    missing = editor_client.get(f"{location}?show=missing").context["rows"]
    assert [row.item_id for row, _ in missing] == ["bolts.M4"]

    refused = editor_client.post(location, {"missing": "0"}, follow=True)
    assert "Nothing was imported" in text_of(refused)
    headers = {"HX-Request": "true"}
    assert editor_client.post(location, headers=headers)["HX-Refresh"] == "true"
    assert Item.objects.get(pk="bolts.M6").name == "M6"

    editor_client.post(location, {"missing": "1"})
    while ImportRun.objects.get().state == "running":
        editor_client.post(location)
    assert ImportRun.objects.get().state == "done"
    assert Item.objects.count() == left
    assert not Item.objects.filter(pk="bolts.M4", status="active").exists()
    assert Item.objects.get(pk="bolts.M6").name == "New"


def test_collection_has_to_be_chosen_to_be_made_equal(editor_client):
    location = upload(editor_client, "code,name\nM8,M8\n", collection="")
    page = choose(editor_client, location, missing="retire")
    assert page.status_code == 422
    assert "Choose the collection" in text_of(page)


def test_missing_items_are_deleted_with_the_permission_only(editor_client, editor):
    location = upload(editor_client, "code,name\nM8,M8\n")
    choose(editor_client, location, missing="delete")
    editor.groups.clear()
    granted = ("add_item", "change_item")
    editor.user_permissions.set(Permission.objects.filter(codename__in=granted))
    assert editor_client.post(location, {"missing": "2"}).status_code == 403
    page = choose(editor_client, upload(editor_client, "code\n"), missing="delete")
    assert page.status_code == 422
    assert Item.objects.count() == 3


def test_preview_keeps_some_rows_of_each_kind_and_counts_all(
    editor_client, monkeypatch
):
    monkeypatch.setattr(previews, "ROWS_MAX", 3)
    monkeypatch.setattr(previews, "WRITTEN_TOGETHER", 2)
    monkeypatch.setattr("items.imports.views.PAGE_ROWS", 2)
    rows = [["code", "name"], *([f"N{n}", f"n{n}"] for n in range(5)), ["M8", "é" * 9]]
    location = upload(editor_client, workbook(rows), "bolts.xlsx")
    page = editor_client.get(location)
    assert "The first 3 of 5" in text_of(page)
    assert [row.name for row, _ in page.context["rows"]] == ["n0", "n1"]
    following = page.context["page"].next
    page = editor_client.get(f"{location}?show=new&cursor={following}")
    assert [row.name for row, _ in page.context["rows"]] == ["n2"]
    # Another preview takes its place.
    choose(editor_client, location, collection="")
    assert PreviewRow.objects.count() == 3
    ImportRun.objects.get().delete()
    assert not PreviewRow.objects.exists()


@pytest.fixture
def long_file(monkeypatch):
    monkeypatch.setattr(previews, "INLINE_SECONDS", -1)
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    return "code,name\n" + "".join(f"N{n},n{n}\n" for n in range(7))


def test_long_preview_is_made_by_a_job(editor_client, editor, long_file, monkeypatch):
    location = upload(editor_client, long_file)
    job = Job.objects.get()
    page = editor_client.get(location)
    assert job.get_absolute_url() in text_of(page)
    assert 'hx-trigger="every 2s"' in text_of(page)
    assert page.context["preview"]["created"] == 2
    assert get_task("preview_import") not in list_tasks_for(editor)

    assert "has not gone on" not in text_of(page)
    with monkeypatch.context() as patched:
        patched.setattr(previews, "STALLED_S", -1)
        assert "has not gone on" in text_of(editor_client.get(location))

    context = claim()
    result = get_task("preview_import").main(context, **context.claim.params)
    assert result["created"] == 7
    end(context, result)
    page = editor_client.get(location)
    assert 'hx-trigger="every 2s"' not in text_of(page)
    assert page.context["preview"]["created"] == PreviewRow.objects.count() == 7


def test_preview_by_a_job_that_was_killed_is_made_again(
    editor_client, long_file, monkeypatch
):
    location = upload(editor_client, long_file)
    context, task = claim(), get_task("preview_import")

    class PowerCut(BaseException):
        pass

    def fail(fraction, message=""):
        if ImportRun.objects.get().preview["created"] == 4:
            raise PowerCut

    context.progress = fail
    with pytest.raises(PowerCut):
        task.main(context, **context.claim.params)
    assert editor_client.get(location).context["preview"]["created"] == 4
    Job.objects.update(lease_until="2000-01-01T00:00Z")
    assert completion.requeue_lost() == 1
    again = claim()
    assert task.main(again, **again.claim.params)["created"] == 7
    assert PreviewRow.objects.count() == 7


@pytest.mark.parametrize("what", ["option", "import", "deletion"])
def test_job_of_a_preview_ends_when_it_is_not_wanted_any_more(
    editor_client, long_file, what, monkeypatch
):
    location = upload(editor_client, long_file)
    context = claim()
    if what == "option":
        monkeypatch.setattr(previews, "INLINE_SECONDS", 60)
        choose(editor_client, location, duplicates="last")
    elif what == "import":
        editor_client.post(location)
    else:
        ImportRun.objects.all().delete()
    kept = PreviewRow.objects.count()
    result = get_task("preview_import").main(context, **context.claim.params)
    assert result == {"superseded": True}
    assert PreviewRow.objects.count() <= kept


def test_file_that_is_damaged_further_down_is_reported_by_the_job(
    editor_client, long_file
):
    rows = ",".join(f'{{"code": "N{n}", "name": "n"}}' for n in range(5))
    location = upload(editor_client, f"[{rows},{{]", "bolts.json")
    context = claim()
    get_task("preview_import").main(context, **context.claim.params)
    page = text_of(editor_client.get(location))
    assert "damaged after entry 5" in page
    assert '<button class="primary">Import<' not in page


def test_preview_is_of_the_first_part_while_the_queue_is_full(
    editor_client, long_file, monkeypatch
):
    def fail(*args, **options):
        raise QueueFull

    monkeypatch.setattr("compute.jobs.submit", fail)
    location = upload(editor_client, long_file)
    page = text_of(editor_client.get(location))
    assert "The queue of jobs is full" in page
    assert "lower bounds" in page
    # What is missing from a file is not known before all of it was read.
    choose(editor_client, location, missing="retire")
    assert "when all of it has been read" in text_of(editor_client.get(location))
    refused = editor_client.post(location, {"missing": "0"}, follow=True)
    assert "Nothing was imported" in text_of(refused)


def test_others_have_no_preview_of_it(editor_client, admin, long_file):
    upload(editor_client, long_file)
    run = ImportRun.objects.get()
    stranger = Actor(admin, "admin")
    found = previews.finish(
        run.pk, run.preview_key, actor=stranger, on_batch=lambda *_: None
    )
    assert found is None
