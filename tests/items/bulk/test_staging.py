"""Rows that change only members of a field: attributes, labels, tags."""

import pytest

from items import rules
from items.bulk import staging
from items.collections import editing
from items.models import Item, ItemChange
from tests.factories import TESTER, make_item

pytestmark = pytest.mark.django_db


def apply(**row: object) -> staging.Counts:
    return staging.apply([row], actor=TESTER)


@pytest.fixture
def bolt(db) -> Item:
    return make_item(
        id="bolt",
        attributes={"metal": "brass", "size": 8},
        labels={"de": "Schraube", "fr": "Vis"},
        tags=["hex", "old"],
    )


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [
        ({"set_attributes": {"size": 9}}, "attributes", {"metal": "brass", "size": 9}),
        ({"set_attributes": {"size": None}}, "attributes", {"metal": "brass"}),
        ({"attributes": {}, "set_attributes": {"a": 1}}, "attributes", {"a": 1}),
        ({"set_labels": {"fr": None, "en": "Bolt"}}, "labels",
         {"de": "Schraube", "en": "Bolt"}),
        ({"add_tags": ["m8"], "remove_tags": ["old", "no"]}, "tags", ["hex", "m8"]),
        ({"add_tags": ["old"], "remove_tags": ["old"]}, "tags", ["hex", "old"]),
        ({"tags": ["x"], "add_tags": ["m8"]}, "tags", ["m8", "x"]),
    ],
)  # fmt: skip
def test_row_changes_members_of_a_field_alone(bolt, row, field, value):
    before = bolt.state()
    apply(id="bolt", **row)
    item = Item.objects.for_reading().get(pk="bolt")
    assert item.state() == before | {field: value}
    if before[field] != value:
        change = ItemChange.objects.get(item_id="bolt", version=2)
        assert (change.before, change.after) == (before, item.state())


def test_row_of_a_new_item_may_have_members_of_fields():
    apply(id="new", name="New", set_attributes={"a": 1, "b": None}, add_tags=["t"])
    item = Item.objects.for_reading().get(pk="new")
    assert (item.attributes, item.tag_names()) == ({"a": 1}, ["t"])


def test_members_that_break_a_rule_are_errors_of_their_field(bolt):
    counts = apply(
        id="bolt",
        set_attributes={"a b": 1},
        set_labels={"no language": "x"},
        add_tags=[f"tag-{n}" for n in range(200)],
    )
    assert counts.errors["bolt"].keys() == {"attributes", "labels", "tags"}
    assert ItemChange.objects.count() == 1


@pytest.mark.parametrize("given", [{"new": 1}, {"a0": "x" * 4_000}])
def test_attributes_are_limited_with_those_that_an_item_has(given):
    full = {f"a{n}": "" for n in range(rules.ATTRIBUTES_MAX)}
    long = {f"a{n}": "x" * 3_990 for n in range(1, 17)}
    make_item(id="full", attributes=full if "new" in given else long)
    make_item(id="bolt", attributes={"a1": 1})
    rows = [{"id": pk, "set_attributes": given} for pk in ("bolt", "full")]
    counts = staging.apply(rows, actor=TESTER)
    assert (counts.updated, [*counts.errors]) == (1, ["full"])
    assert "at most" in counts.errors["full"]["attributes"][0]
    assert Item.objects.get(pk="bolt").attributes == {"a1": 1} | given


@pytest.mark.parametrize(
    ("item", "key", "code"),
    [("x", "nuts", "x"), ("bolts.a", "nuts", "a"), ("bolts.a", "general", "bolts.a")],
)
def test_item_that_is_moved_has_the_code_it_has_there(item, key, code):
    for name in "bolts", "nuts":
        editing.create_collection({"key": name, "name": name})
    make_item(collection="bolts", code="a")
    make_item(id="x")
    Item.objects.filter(pk="x").update(code="")  # as an earlier release wrote it
    apply(id=item, collection=key)
    moved = Item.objects.get(pk=item)
    assert (moved.collection_id, moved.code) == (key, code)


def test_code_in_general_is_the_id(bolt):
    [message] = apply(id="bolt", code="nut").errors["bolt"]["code"]
    assert "the code is the id" in message
    assert apply(id="bolt", code="bolt").unchanged == 1


def test_comparison_records_what_would_differ(bolt):
    make_item(id="same", tags=["m8"])
    rows = [
        {"id": "bolt", "status": "retired", "set_attributes": {"size": None},
         "valid_to": "2026-12-31", "tags": ["m8"], "parent": "same"},
        {"id": "same", "tags": ["m8"], "status": "active"},
        {"id": "new", "name": "New", "status": "draft"},
        {"id": "wrong", "name": ""},
    ]  # fmt: skip
    found: list[staging.Difference] = []
    counts = staging.compare(rows, record=found.append)
    assert counts[:3] == (1, 1, 1)
    changed, new = found
    before = {
        "attributes": {"metal": "brass", "size": 8}, "tags": ["hex", "old"],
        "status": "active", "valid_to": None, "parent": None,
    }  # fmt: skip
    after = {
        "attributes": {"metal": "brass"}, "tags": ["m8"], "status": "retired",
        "valid_to": "2026-12-31", "parent": "same",
    }  # fmt: skip
    assert changed == ("bolt", "Brass bolt", before, after)
    assert (new.id, new.before, new.after["status"]) == ("new", None, "draft")
    assert ItemChange.objects.count() == 2


def test_row_below_one_in_a_circle_is_applied_without_that():
    for name in "abc":
        make_item(id=name)
    parents = {"a": "a", "b": "a", "c": "b"}
    rows = [{"id": pk, "parent": parent} for pk, parent in parents.items()]
    assert [*staging.apply(rows, actor=TESTER).errors] == ["a"]
    assert [*Item.objects.order_by("pk").values_list("parent", flat=True)] == [
        None, "a", "b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "found", "lost"),
    [
        ({"name": "Nut"}, "nut", "brass"),
        ({"set_labels": {"de": "Mutter"}}, "mutter", "schraube"),
        ({"set_attributes": {"size": 71}}, "71", "68"),
        ({"attributes": {"size": 71}}, "71", "68"),
        ({"collection": "nuts"}, "brass", "68"),
        ({"status": "retired", "add_tags": ["x"]}, "68", "71"),
    ],
)
def test_search_finds_what_was_written(row, found, lost):
    size = {"type": "integer", "x-searchable": True}
    schema = {"properties": {"size": size}}
    editing.create_collection({"key": "bolts", "name": "B", "schema": schema})
    editing.create_collection({"key": "nuts", "name": "N"})
    make_item(
        id="b", collection="bolts", code="b", name="Brass bolt", description="",
        labels={"de": "Schraube"}, attributes={"size": 68},
    )  # fmt: skip
    assert apply(id="b", **row).updated == 1
    assert Item.objects.search(found).exists()
    assert not Item.objects.search(lost).exists()
