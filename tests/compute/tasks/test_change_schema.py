"""The task that changes the schema of a collection."""

import json

import pytest

from compute.registry import TaskFailed, get_task
from compute.tasks.change_schema import BROKEN_FILE
from items import catalogue
from items.collections import editing
from items.collections.editing import change_collection
from items.models import Collection, Item
from tests.compute.factories import begin, do
from tests.compute.tasks.test_tasks import content
from tests.factories import make_item

pytestmark = [pytest.mark.django_db, pytest.mark.once]

SIZES = {"properties": {"size": {"type": "integer"}}}
SMALL = {"properties": {"size": {"type": "integer", "maximum": 2}}}
SEARCHED = {"properties": {"size": {"type": "integer", "x-searchable": True}}}


@pytest.fixture
def bolts(db, monkeypatch) -> Collection:
    """More items than are changed at once."""
    monkeypatch.setattr(editing, "ITEMS_AT_ONCE", 2)
    found = editing.create_collection({"key": "bolts", "name": "B", "schema": SIZES})
    for code, size in {"a": 71, "b": 72, "c": 73}.items():
        make_item(collection="bolts", code=code, attributes={"size": size})
    return found


def test_schema_of_many_items_is_changed_with_their_search_texts(bolts, editor):
    job = do("change_schema", editor, collection="bolts", schema=SEARCHED)
    assert job.result == {
        "collection": "bolts", "items": 3, "broken": 0, "is_changed": True,
    }  # fmt: skip
    assert not job.result_files().exists()
    bolts.refresh_from_db()
    assert (bolts.schema, bolts.next_schema) == (SEARCHED, None)
    assert Item.objects.search("73").get().code == "c"


@pytest.mark.parametrize("dry_run", [True, False])
def test_broken_items_are_in_a_file(bolts, editor, editor_client, dry_run):
    job = do(
        "change_schema", editor,
        collection="bolts", schema=json.dumps(SMALL), dry_run=dry_run,
    )  # fmt: skip
    assert (job.result["broken"], job.result["is_changed"]) == (3, False)
    rows = [json.loads(line) for line in content(job, BROKEN_FILE).splitlines()]
    assert {row["id"] for row in rows} == {"bolts.a", "bolts.b", "bolts.c"}
    assert list(rows[0]["errors"]["attributes"]) == ["size"]
    bolts.refresh_from_db()
    assert (bolts.schema, bolts.next_schema) == (SIZES, None)
    page = editor_client.get(job.get_absolute_url()).content.decode()
    assert "3 items of “bolts” do not conform to the schema." in page
    assert f"files/{BROKEN_FILE}" in page


def test_dry_run_changes_nothing(bolts, editor, editor_client):
    job = do("change_schema", editor, collection="bolts", schema={}, dry_run=True)
    assert (job.result["broken"], job.result["is_changed"]) == (0, False)
    bolts.refresh_from_db()
    assert bolts.schema == SIZES
    page = editor_client.get(job.get_absolute_url()).content.decode()
    assert "All 3 items of “bolts” conform to the schema." in page


def test_run_after_one_that_was_killed_makes_the_search_texts(bolts, editor):
    context = begin("change_schema", editor, collection="bolts", schema=SEARCHED)
    change_collection("bolts", {"schema": SEARCHED}, items_max=None)  # and no more
    assert not Item.objects.search("73").exists()
    get_task("change_schema").main(context, **context.claim.params)
    assert Item.objects.search("73").exists()


def test_run_after_one_that_was_killed_before_the_change_takes_it_up(bolts, editor):
    editing._introduce("bolts", SMALL, None, None)
    do("change_schema", editor, collection="bolts", schema=SEARCHED)
    bolts.refresh_from_db()
    assert (bolts.schema, bolts.next_schema) == (SEARCHED, None)


def test_job_names_what_cannot_be_changed(bolts, editor):
    context = begin("change_schema", editor, collection="bolts", schema={})
    catalogue.delete_items(["bolts.a", "bolts.b", "bolts.c"], actor=context.actor)
    editing.delete_collection("bolts")
    with pytest.raises(TaskFailed, match="Collection not found"):
        get_task("change_schema").main(context, **context.claim.params)


@pytest.mark.parametrize(
    ("wrong", "name", "message"),
    [
        ({"collection": "nix"}, "collection", "Collection not found"),
        ({"schema": "{"}, "schema", "Must be JSON"),
        ({"schema": {"properties": []}}, "schema", "properties: "),
    ],
    ids=str,
)
def test_parameters_that_are_wrong_are_named(bolts, wrong, name, message):
    data = {"collection": "bolts", "schema": {}} | wrong
    params = get_task("change_schema").params(data=data)
    assert not params.is_valid()
    assert params.errors[name][0].startswith(message)


def test_form_has_room_for_a_schema(bolts, editor_client):
    address = "/jobs/new/change_schema/"
    sent = {"collection": "bolts", "schema": '{"properties": []}'}
    page = editor_client.post(address, sent).content.decode()
    assert "{&quot;properties&quot;: []}</textarea>" in page
    assert "properties: " in page
    sent["schema"] = '{"properties": {}}'
    assert editor_client.post(address, sent).status_code == 302
