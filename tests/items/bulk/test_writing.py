"""Writing of many items at once, all or none, with all errors in one round."""

from functools import partial
from typing import Any

import pytest
from django.db import connection

from items import catalogue, fields
from items.bulk import writing
from items.bulk.writing import (
    CHANGE,
    CREATE,
    DELETE,
    MERGE_PATCH,
    REPLACE,
    Kind,
    NothingWritten,
    Rows,
    RowsStale,
    Written,
)
from items.integrity import ItemReferenced
from items.models import ChangeBatch, Collection, Item, ItemChange, ItemLink
from resilient_site.errors import Invalid, PreconditionRequired, SiteError
from tests.factories import TESTER, make_item
from tests.threads import in_threads, while_uncommitted

pytestmark = pytest.mark.django_db


def write(kind: Kind, *rows: Any) -> Written:
    way = writing.delete if kind is DELETE else writing.write
    return way(Rows([*rows], kind), actor=TESTER)


def ids(written: Written) -> list[Any]:
    return [item["id"] for item in written.items]


def errors_of(kind: Kind, *rows: Any, error: type[SiteError] = NothingWritten) -> Any:
    """Return the errors of a call that has changed nothing."""
    before = snapshot()
    with pytest.raises(SiteError) as raised:
        write(kind, *rows)
    assert type(raised.value) is error
    assert snapshot() == before
    return raised.value.errors


def snapshot() -> Any:
    items = {item.pk: (item.version, item.state()) for item in Item.objects.all()}
    return items, ItemChange.objects.count(), ChangeBatch.objects.count()


def state(pk: str) -> dict[str, Any]:
    return Item.objects.get(pk=pk).state()


@pytest.fixture
def bolts(db: None) -> Collection:
    properties = {
        "size": {"type": "integer"},
        "article": {"type": "string", "x-unique": True},
        "like": {"type": "string", "x-reference": "bolts"},
    }
    return Collection.objects.create(
        key="bolts", name="Bolts", schema={"properties": properties}
    )


def test_created_items_are_one_batch_and_come_in_the_order_of_the_rows(bolts):
    written = write(
        CREATE,
        {"id": "b", "name": "B", "tags": ["t"]},
        {"name": "Generated"},
        {"collection": "bolts", "code": "M8", "name": "Bolt", "parent": "bolts.M"},
        {"collection": "bolts", "code": "M", "name": "Bolts of metric size"},
    )
    assert [item["name"] for item in written.items] == [
        "B", "Generated", "Bolt", "Bolts of metric size",
    ]  # fmt: skip
    assert [item["version"] for item in written.items] == [1] * 4
    assert ids(written)[:1] + ids(written)[2:] == ["b", "bolts.M8", "bolts.M"]
    found = Item.objects.for_reading().in_bulk(ids(written))
    assert written.items == [found[pk].as_json() for pk in ids(written)]
    batch = ChangeBatch.objects.get()
    assert (batch.pk, batch.kind, batch.title) == (
        written.batch_id, "bulk", "Bulk create",
    )  # fmt: skip
    assert (batch.created, batch.updated, batch.deleted) == (4, 0, 0)
    assert batch.finished_at
    assert set(ItemChange.objects.values_list("batch", flat=True)) == {batch.pk}


def test_new_items_are_written_as_one_by_one(bolts):
    """Those of a call, which are copied into the tables, and those of single ones."""
    make_item(id="gone")
    catalogue.delete_item("gone", actor=TESTER)
    rows = [
        {"id": "gone", "name": "Äpfel", "tags": ["t", "dark red"], "version": 9,
         "labels": {"de": "Ä"}},
        {"id": "7", "name": r"x\t\N", "aliases": ["a\\b"], "valid_from": "2026-01-02"},
        {"collection": "bolts", "code": "A/B", "id": "ab", "name": "n",
         "attributes": {"size": 8, "article": "ü"}, "status": "draft"},
        {"collection": "bolts", "code": "C", "name": "n", "parent": "ab",
         "attributes": {"like": "A/B"}, "description": "a\nb",
         "links": [{"relation": "exactMatch", "target": 7}]},
    ]  # fmt: skip
    write(CREATE, *rows)
    many = stored()
    write(DELETE, *Item.objects.values_list("pk", flat=True))
    for row in rows:
        catalogue.create_item(fields.clean(row, is_json=True), actor=TESTER)
    assert [version for version, *_ in many.values()] == [1, 1, 1, 3]
    assert stored() == {
        pk: (version + 2, *others) for pk, (version, *others) in many.items()
    }


def stored() -> dict[str, Any]:
    """Return what is stored of each item in its tables."""
    found = {}
    for item in Item.objects.order_by("pk"):
        change = ItemChange.objects.filter(item_id=item.pk).latest("version")
        links = [*ItemLink.objects.filter(item=item).values("relation", "target")]
        found[item.pk] = (
            item.version, item.state(), item.search_text, item.sort_key, links,
            change.version - item.version, change.action, change.before, change.after,
            change.actor_name, item.updated_at == change.at == item.created_at,
        )  # fmt: skip
    return found


def test_replaced_items_have_the_state_of_their_row_alone(bolts):
    make_item(id="x", collection="bolts", code="M8", tags=["old"])
    written = write(
        REPLACE,
        {"collection": "bolts", "code": "M8", "name": "By place"},
        {"id": "new", "name": "New"},
        {"collection": "bolts", "code": "M9", "name": "New too"},
    )
    assert (written.created, written.updated) == (2, 1)
    assert ids(written) == ["x", "new", "bolts.M9"]
    found = state("x")
    assert (found["code"], found["description"], found["tags"]) == ("M8", "", [])
    # By its id it stays where it is.
    write(REPLACE, {"id": "x", "name": "By id"})
    assert [state("x")[name] for name in ("collection", "code")] == ["bolts", "M8"]


def test_changed_items_keep_what_their_row_does_not_name(bolts):
    make_item(id="a", tags=["old"], attributes={"n": 1, "m": 2})
    make_item(id="x", collection="bolts", code="M8")
    written = write(
        CHANGE,
        {"id": "a", "attributes": {"n": 2}},
        {"collection": "bolts", "code": "M8", "status": "retired"},
    )
    assert ids(written) == ["a", "x"]
    assert (state("a")["attributes"], state("a")["tags"]) == ({"n": 2}, ["old"])
    assert (state("x")["status"], state("x")["code"]) == ("retired", "M8")


def test_merge_patches_change_and_remove_members():
    make_item(id="a", attributes={"n": 1, "m": 2}, labels={"de": "A"}, tags=["t"])
    patch = {"attributes": {"n": None, "o": 3}, "labels": {"fr": "B"}, "tags": None}
    write(MERGE_PATCH, {"id": "a", **patch, "description": None})
    found = state("a")
    assert found["attributes"] == {"m": 2, "o": 3}
    assert (found["labels"], found["tags"]) == ({"de": "A", "fr": "B"}, [])
    assert found["description"] == ""
    found = errors_of(MERGE_PATCH, {"id": "a", "attributes": {"a b": 1}})
    assert found["0"].keys() == {"attributes"}


def test_nothing_is_recorded_where_nothing_changes():
    item = make_item(id="a")
    written = write(CHANGE, {"id": "a", "name": item.name})
    assert (written.unchanged, written.batch_id) == (1, None)
    assert ids(written) == ["a"]
    assert ItemChange.objects.count() == 1
    assert not ChangeBatch.objects.exists()


def test_deleted_items_may_refer_to_each_other(bolts):
    make_item(id="up")
    make_item(id="down", parent="up")
    make_item(id="7")
    make_item(id="x", collection="bolts", code="M8")
    place = {"collection": "bolts", "code": "M8"}
    written = write(DELETE, "up", {"id": "down", "version": 1}, 7, place)
    assert (written.deleted, written.items) == (4, [])
    assert not Item.objects.exists()
    batch = ChangeBatch.objects.get()
    assert (batch.pk, batch.deleted) == (written.batch_id, 4)


def test_reference_to_a_deleted_item_is_an_error_of_the_whole():
    make_item(id="up")
    make_item(id="down", parent="up")
    make_item(id="free")
    with pytest.raises(ItemReferenced) as raised:
        write(DELETE, "free", "up")
    reference = {"item": "down", "field": "parent", "target": "up"}
    assert raised.value.members == {"references": [reference]}
    # Among other errors it is one of its row.
    found = errors_of(DELETE, "no", "up", {"id": "free", "version": 2})
    assert {index: [*error] for index, error in found.items()} == {
        "0": ["id"], "1": ["id"], "2": ["version"],
    }  # fmt: skip
    assert "down" in found["1"]["id"][0]


ROOT = {"collection": "bolts", "code": "M", "name": "Root"}
BAD = {**ROOT, "code": "bad", "name": ""}


@pytest.mark.parametrize(
    ("kind", "rows", "fields"),
    [
        (CREATE, [{"id": "there", "name": "x"}], {"0": {"id"}}),
        (CREATE, [{"collection": "bolts", "code": "M8", "name": "x"}], {"0": {"code"}}),
        (CREATE, [{"name": "x"}, {"id": "a/b", "name": ""}, 5],
         {"1": {"id", "name"}, "2": {"non_field_errors"}}),
        # Each by another rule: a value, the catalogue, the schema, a reference.
        (CREATE, [{"id": "a"}, {"id": "there", "name": "x"},
                  {**ROOT, "attributes": {"size": "x"}},
                  {"id": "c", "name": "x", "parent": "no"}],
         {"0": {"name"}, "1": {"id"}, "2": {"attributes"}, "3": {"parent"}}),
        # Not what is wrong only because another row is.
        (CREATE, [BAD, {**ROOT, "parent": "bolts.bad"}], {"0": {"name"}}),
        (CREATE, [{**ROOT, "attributes": {"size": "x"}},
                  {**ROOT, "code": "N", "attributes": {"like": "M"}},
                  {**ROOT, "code": "O", "attributes": {"like": "no"}}],
         {"0": {"attributes"}, "2": {"attributes"}}),
        (CREATE, [{**ROOT, "attributes": {"article": "1"}},
                  {**ROOT, "code": "N", "attributes": {"article": "1"}}],
         {"1": {"attributes"}}),
        # The same item twice.
        (CREATE, [{"id": 3, "name": "a"}, {"id": "3", "name": "b"}], {"1": {"id"}}),
        (CREATE, [{"id": "a", **ROOT}, ROOT], {"1": {"code"}}),
        (CREATE, [{"id": "a", "name": ""}, {"id": "a", "name": "b"}],
         {"0": {"name"}, "1": {"id"}}),
        # A row whose values are wrong is looked for too.
        (CREATE, [{"id": "there", "name": ""}], {"0": {"id", "name"}}),
        (CHANGE, [{"id": "no", "name": ""}, {"id": "x", "version": 2, "name": ""}],
         {"0": {"id", "name"}, "1": {"version", "name"}}),
        (CHANGE, [{"id": "x"}, {"collection": "bolts", "code": "M8"}], {"1": {"code"}}),
        (CHANGE, [{"id": "there"}, {"code": "there"}], {"1": {"code"}}),
        (DELETE, ["x", {"collection": "bolts", "code": "M8"}], {"1": {"code"}}),
        # What names no item.
        (REPLACE, [{"name": "x"}], {"0": {"id"}}),
        (CHANGE, [{"id": "no"}, {"code": "no"}, {"collection": "bolts", "code": "no"},
                  {"name": "x"}],
         {"0": {"id"}, "1": {"code"}, "2": {"code"}, "3": {"id"}}),
        (DELETE, ["no", {"code": "no"}, {}, None, [], {"id": "there", "name": "x"}],
         {"0": {"id"}, "1": {"code"}, "2": {"id"}, "3": {"id"}, "4": {"id"},
          "5": {"name"}}),
        (CHANGE, [{"id": "there", "version": 0}, {"id": "x", "version": True}],
         {"0": {"version"}, "1": {"version"}}),
        (CHANGE, [{"id": "there", "code": "other"}], {"0": {"code"}}),
        (CHANGE, [{"id": "x", "collection": "general", "code": "y"}], {"0": {"code"}}),
        (CHANGE, [{"id": "x", "version": 2}, {"id": "there", "parent": "no"}],
         {"0": {"version"}, "1": {"parent"}}),
        (CHANGE, [{"id": "x", "version": 2, "attributes": {"size": "x"}}],
         {"0": {"version", "attributes"}}),
    ],
)  # fmt: skip
def test_all_errors_come_in_one_round_by_the_index_of_the_row(
    bolts, kind, rows, fields
):
    make_item(id="there")
    make_item(id="x", collection="bolts", code="M8")
    before = snapshot()
    with pytest.raises(Invalid) as raised:
        write(kind, *rows)
    found = {index: {*error} for index, error in (raised.value.errors or {}).items()}
    assert found == fields
    assert snapshot() == before


def test_item_that_is_there_twice_names_the_first_index():
    found = errors_of(CREATE, {"name": "x"}, {"id": 7, "name": "a"},
                      {"id": "7", "name": "b"})  # fmt: skip
    assert found == {"2": {"id": ["Row 1 is about the same item."]}}


@pytest.mark.parametrize("kind", [REPLACE, CHANGE, DELETE])
def test_other_version_is_a_conflict(kind):
    make_item(id="a")
    item = catalogue.update_item("a", {"name": "Newer"}, actor=TESTER)
    make_item(id="b")
    rows = [{"id": pk} if kind is DELETE else {"id": pk, "name": "x"} for pk in "ab"]
    found = errors_of(kind, rows[0] | {"version": 1}, rows[1], error=RowsStale)
    assert [*found] == ["0"]
    assert "version 2" in found["0"]["version"][0]
    # One that is ahead as well: a restore has it again, with other contents.
    errors_of(kind, rows[0] | {"version": 3}, error=RowsStale)
    written = write(kind, rows[0] | {"version": item.version}, rows[1])
    assert written.updated + written.deleted == 2


def test_version_of_an_item_that_is_not_there_is_a_conflict():
    make_item(id="a")
    catalogue.delete_item("a", actor=TESTER)
    errors_of(REPLACE, {"id": "a", "name": "x", "version": 1}, error=RowsStale)
    assert write(REPLACE, {"id": "a", "name": "x"}).items[0]["version"] == 3


def test_versions_are_required_where_the_site_requires_them(settings):
    settings.REQUIRE_IF_MATCH = True
    make_item(id="a")
    row = {"id": "a", "name": "x"}
    for kind in (REPLACE, CHANGE):
        assert errors_of(kind, row, error=PreconditionRequired).keys() == {"0"}
    errors_of(DELETE, "a", error=PreconditionRequired)
    assert write(REPLACE, row | {"version": 1}, {"id": "new", "name": "x"}).created


def test_row_is_not_of_the_item_that_has_the_id_of_its_code(bolts):
    """An item with that id has been given another code since."""
    make_item(collection="bolts", code="M8")
    catalogue.update_item("bolts.M8", {"code": "M9"}, actor=TESTER)
    place = {"collection": "bolts", "code": "M8"}
    for kind in (CHANGE, DELETE):
        assert errors_of(kind, place)["0"].keys() == {"code"}
    assert errors_of(REPLACE, place | {"name": "x"})["0"].keys() == {"id"}


@pytest.mark.parametrize("body", [[], {}, None, "x", [{"name": "a"}] * 1_001], ids=str)
def test_body_is_a_list_of_1_to_1000_rows(body):
    with pytest.raises(Invalid, match=r"1 to 1,000"):
        Rows(body, CREATE)


# --- with others at one time


@pytest.mark.django_db(transaction=True)
def test_calls_about_the_same_items_in_opposite_order_do_not_deadlock():
    names = [f"i{n:03}" for n in range(100)]
    write(CREATE, *({"id": pk, "name": "n"} for pk in names))

    def change(kind: Kind, tag: str, *pks: str) -> None:
        tags = [tag, f"{tag}2"]
        write(kind, *({"id": pk, "name": tag, "tags": tags} for pk in pks))

    outcomes = in_threads(
        partial(change, CHANGE, "a", *names),
        partial(change, CHANGE, "b", *names[::-1]),
        partial(change, REPLACE, "c", *names[::-1]),
    )
    assert outcomes == [None] * 3
    assert set(Item.objects.values_list("version", flat=True)) == {4}
    assert len({(i.name, *i.tag_names()) for i in Item.objects.all()}) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.once
def test_one_of_two_calls_of_one_version_wins():
    make_item(id="a")
    row = {"id": "a", "version": 1}
    change = partial(write, CHANGE, row | {"name": "x"}), partial(write, DELETE, row)
    first, second = while_uncommitted(*change)
    assert (first.updated, type(second)) == (1, RowsStale)


@pytest.mark.django_db(transaction=True)
@pytest.mark.once
@pytest.mark.parametrize("kind", [CHANGE, REPLACE, DELETE])
def test_row_is_not_of_an_item_that_loses_its_code_meanwhile(bolts, kind):
    """The write waits for the other one, and then finds the item that has the code."""
    make_item(id="a", collection="bolts", code="M8")
    row = {"collection": "bolts", "code": "M8"}
    row |= {} if kind is DELETE else {"name": "By code"}

    def rename() -> None:
        catalogue.update_item("a", {"code": "M9"}, actor=TESTER)
        make_item(id="b", collection="bolts", code="M8")

    _, written = while_uncommitted(rename, partial(write, kind, row))
    assert written.updated + written.deleted == 1
    assert state("a")["name"] != "By code"
    found = Item.objects.filter(pk="b", name="Brass bolt")
    assert not found.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.once
def test_same_new_item_of_two_calls_is_created_once():
    row = {"id": "a", "name": "x"}
    outcomes = while_uncommitted(
        partial(write, CREATE, row), partial(write, REPLACE, row | {"name": "y"})
    )
    assert [(o.created, o.updated) for o in outcomes] == [(1, 0), (0, 1)]


# Of a call in which all is new, and of one in which something is known.
TABLES = {
    "post": ("items_item", "items_itemchange", "items_itemtag", "items_changebatch"),
    "put": ("items_itemchange", "items_itemtag", "items_changebatch"),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.once
@pytest.mark.parametrize(
    ("method", "table"),
    [(method, table) for method, tables in TABLES.items() for table in tables],
)
def test_nothing_is_half_written_when_the_database_is_lost(api, method, table):
    """The connection ends in the middle of the transaction, at a write to a table."""
    make_item(id="a", tags=["old"])
    before = snapshot()
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'"
        )
        cursor.execute(
            f"CREATE TRIGGER lose BEFORE INSERT ON {table} EXECUTE FUNCTION lose()"
        )
    try:
        names = "bc" if method == "post" else "abc"
        rows = [{"id": pk, "name": pk, "tags": ["new"]} for pk in names]
        response = getattr(api, method)("/api/v1/items/-/bulk", rows)
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION lose() CASCADE")
    assert snapshot() == before


def test_value_that_another_item_keeps_is_not_unique(bolts):
    """The other one may be in the same call, as it is."""
    write(
        CREATE,
        *(
            {"collection": "bolts", "code": code, "name": code,
             "attributes": {"article": code.lower()}}
            for code in "AB"
        ),
    )  # fmt: skip
    kept = {"id": "bolts.A", "attributes": {"article": "a"}}
    taken = {"id": "bolts.B", "attributes": {"article": "a"}}
    assert list(errors_of(CHANGE, kept, taken)) == ["1"]
    assert list(errors_of(CHANGE, taken, kept)) == ["0"]
    # What one gives up, the other may have.
    write(CHANGE, {"id": "bolts.A", "attributes": {"article": "c"}}, taken)
    assert state("bolts.B")["attributes"] == {"article": "a"}
