"""A schema takes the place of another one while items are written."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count

import pytest
from django.db import connection, transaction

from items import catalogue
from items.collections import editing
from items.collections.editing import (
    OthersAreWriting,
    SchemaBreaksItems,
    SchemaSuperseded,
)
from items.models import Collection, Item
from resilient_site.errors import Conflict, Invalid
from tests.factories import TESTER, make_item

pytestmark = pytest.mark.django_db


def attributes(**declared):
    return {"properties": declared}


TEXT = {"type": "string"}
SIZES = attributes(size={"type": "integer"})
SMALL_SIZES = attributes(size={"type": "integer", "maximum": 10})


@pytest.fixture
def bolts(transactional_db) -> Collection:
    return make_collection("bolts", SIZES)


def make_collection(key: str, schema) -> Collection:
    return editing.create_collection({"key": key, "name": key, "schema": schema})


def change(schema, **options) -> Collection:
    return editing.change_collection("bolts", {"schema": schema}, **options)


def make_bolt(code: str, **values) -> Item:
    return make_item(collection="bolts", code=code, attributes=values)


def in_another_thread(job):
    def run():
        try:
            return job()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def schemas() -> tuple:
    found = Collection.objects.get(pk="bolts")
    return found.schema, found.next_schema


def test_schema_is_adopted_if_all_items_conform(bolts):
    make_bolt("a", size=10)
    assert change(SMALL_SIZES).version == 2
    assert schemas() == (SMALL_SIZES, None)
    with pytest.raises(Invalid):
        make_bolt("b", size=11)


@pytest.mark.once
def test_change_of_titles_and_order_looks_at_no_item(bolts):
    """So it takes no job, however many items there are, and no other schema's place."""
    change(attributes(size={"type": "integer"}, metal=TEXT))
    make_bolt("a", size=1)
    titled = {
        "properties": {
            "size": {"type": "integer", "title": "Size", "default": 8},
            "metal": TEXT | {"description": "Of the thread"},
        },
        "x-order": ["metal", "size"],
    }
    with editing.introduced("bolts", {"schema": SMALL_SIZES}):
        assert change(titled, items_max=0).version == 3
        found, coming = schemas()
    assert found == titled
    assert coming["properties"] == SMALL_SIZES["properties"]
    with pytest.raises(editing.SchemaNeedsJob):
        change(attributes(size=TEXT), items_max=0)


def test_broken_items_are_counted_and_listed_up_to_a_bound(bolts, monkeypatch):
    for number in range(8, 14):
        make_bolt(f"b{number}", size=number)
    monkeypatch.setattr(editing, "BROKEN_SHOWN", 2)
    every = []
    with pytest.raises(SchemaBreaksItems) as caught:
        change(SMALL_SIZES, on_broken=lambda item_id, errors: every.append(item_id))
    assert caught.value.members["count"] == 3
    assert len(caught.value.members["items"]) == 2
    assert sorted(every) == ["bolts.b11", "bolts.b12", "bolts.b13"]
    assert schemas() == (SIZES, None)


def test_values_that_are_to_be_unique_have_to_be(bolts):
    unique = attributes(size={"type": "integer", "x-unique": True})
    for code, size in {"a": 1, "b": 2, "c": 1}.items():
        make_bolt(code, size=size)
    make_bolt("d")
    with pytest.raises(SchemaBreaksItems) as caught:
        change(unique)
    found = {row["id"]: row["errors"] for row in caught.value.members["items"]}
    assert found.keys() == {"bolts.a", "bolts.c"}
    assert list(found["bolts.a"]["attributes"]) == ["size"]
    catalogue.update_item("bolts.c", {"attributes": {"size": 3}}, actor=TESTER)
    change(unique)
    with pytest.raises(Invalid, match="not valid"):
        make_bolt("e", size=3)


def test_codes_that_are_referred_to_have_to_exist(bolts):
    change(attributes(metal=TEXT))
    make_collection("metals", {})
    make_bolt("a", metal="Fe")
    references = attributes(metal={"type": "string", "x-reference": "metals"})
    with pytest.raises(SchemaBreaksItems) as caught:
        change(references)
    assert [row["id"] for row in caught.value.members["items"]] == ["bolts.a"]
    make_item(collection="metals", code="Fe", name="Iron")
    change(references)
    assert schemas() == (references, None)


@pytest.mark.parametrize(
    ("coming", "breaking"),
    [
        (SMALL_SIZES, {"size": 11}),
        (attributes(size={"type": "integer", "x-unique": True}), {"size": 1}),
        (
            attributes(
                size={"type": "integer"}, metal={"type": "string", "x-reference": "m"}
            ),
            {"metal": "Au"},
        ),
    ],
    ids=["type", "unique", "reference"],
)
def test_write_conforms_to_the_schema_that_is_being_introduced(bolts, coming, breaking):
    make_collection("m", {})
    change(attributes(size={"type": "integer"}, metal=TEXT))
    make_bolt("a", size=1)
    with editing.introduced("bolts", {"schema": coming}):
        with pytest.raises(Invalid):
            in_another_thread(lambda: make_bolt("b", **breaking))
        in_another_thread(lambda: make_bolt("c", size=2))
    make_bolt("b", **breaking)  # it was not adopted
    assert schemas()[1] is None


@pytest.mark.once
def test_writers_during_changes_leave_no_item_that_breaks_the_schema(bolts):
    over = threading.Event()
    written = []

    def write(name: str) -> None:
        number = 0
        try:
            while not over.is_set() and number < 400:
                number += 1
                with contextlib.suppress(Invalid):
                    make_bolt(f"{name}{number}", size=11)
                    written.append(name)
                with contextlib.suppress(catalogue.ItemNotFound):
                    catalogue.delete_item(f"bolts.{name}{number}", actor=TESTER)
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, name) for name in "abc"]
        adopted = 0
        try:
            # The writers come to an end, after which a schema is adopted.
            for number in count(1):
                have_ended = all(writer.done() for writer in writers)
                with contextlib.suppress(SchemaBreaksItems, Conflict):
                    change(SMALL_SIZES)
                    adopted += 1
                    assert not Item.objects.filter(collection="bolts").exists()
                    change(SIZES)
                if number >= 12 and (have_ended or (adopted and written)):
                    break
        finally:
            over.set()
        for writer in writers:
            writer.result()
    assert written
    assert adopted


@pytest.mark.once
def test_change_waits_for_a_transaction_that_has_not_seen_it(bolts):
    """It has read the collection, and has written nothing yet: it has no number."""
    has_read, may_write = threading.Event(), threading.Event()

    def write() -> None:
        try:
            with transaction.atomic():
                Collection.objects.get(pk="bolts")
                has_read.set()
                assert may_write.wait(90)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        assert has_read.wait(90)
        try:
            with pytest.raises(OthersAreWriting):
                change(SMALL_SIZES, patience_s=0)
            assert schemas() == (SIZES, None)
        finally:
            may_write.set()
        writer.result()
    change(SMALL_SIZES, patience_s=90)
    assert schemas() == (SMALL_SIZES, None)


def test_schema_that_an_interrupted_change_left_is_replaced(bolts):
    interrupted = editing._introduce("bolts", SMALL_SIZES, None, None)
    with pytest.raises(Invalid, match="not valid"):
        make_bolt("a", size=11)
    other = attributes(size={"type": "integer", "maximum": 20})
    change(other)
    assert schemas() == (other, None)
    make_bolt("a", size=11)
    with pytest.raises(SchemaSuperseded):
        editing.update_collection("bolts", {"schema": SMALL_SIZES}, attempt=interrupted)


def test_schema_introduced_again_is_not_adopted_by_the_attempt_before(bolts):
    """Between the two nobody had to conform to it."""
    with editing.introduced("bolts", {"schema": SMALL_SIZES}) as first:
        editing._introduce("bolts", SMALL_SIZES, None, None)
        with pytest.raises(SchemaSuperseded):
            editing.update_collection("bolts", {"schema": SMALL_SIZES}, attempt=first)


def test_clean_up_removes_what_was_introduced_long_ago(bolts, monkeypatch):
    editing._introduce("bolts", SMALL_SIZES, None, None)
    assert editing.withdraw_abandoned() == 0
    monkeypatch.setattr(editing, "ABANDONED_AFTER", timedelta(-1))
    assert editing.withdraw_abandoned() == 1
    assert schemas() == (SIZES, None)


def test_search_follows_the_searchable_attributes(bolts):
    change(attributes(metal=TEXT))
    make_bolt("a", metal="zirconium")
    assert not Item.objects.search("zirconium").exists()
    change(attributes(metal={"type": "string", "x-searchable": True}))
    assert Item.objects.search("zirconium").exists()
    change(attributes(metal=TEXT))
    assert not Item.objects.search("zirconium").exists()


def test_write_names_every_rule_of_the_schema_to_come():
    editing.create_collection({"key": "bolts", "name": "Bolts"})
    short = attributes(size={"type": "string", "pattern": "^[A-Z]+$", "maxLength": 1})
    Collection.objects.filter(pk="bolts").update(next_schema=short)
    with pytest.raises(Invalid) as caught:
        make_item(collection="bolts", code="m8", attributes={"size": "m8"})
    assert len(caught.value.errors["attributes"]["size"]) == 2
