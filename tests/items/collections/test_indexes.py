"""Indexes of attributes."""

import pytest
from django.db import connection

from items.collections import editing, indexes
from items.collections.attributes import AttributeValue
from items.models import Item
from resilient_site.operations.doctor import Level
from tests.factories import make_item

pytestmark = pytest.mark.django_db(transaction=True)


def attributes(**declared):
    return {"properties": declared}


INDEXED = attributes(
    size={"type": "integer", "x-filterable": True},
    article={"type": "string", "x-unique": True},
    metal={"type": "string", "x-reference": "metals"},
    colour={"type": "string"},
    ways={"type": "array", "items": {"type": "string"}, "x-filterable": True},
)


INVALIDATE = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass"


@pytest.fixture(autouse=True)
def _drop_indexes():
    yield
    editing.Collection.objects.filter(items=None).exclude(pk="general").delete()
    indexes.synchronize()


def make_collections() -> None:
    editing.create_collection({"key": "metals", "name": "Metals"})
    editing.create_collection({"key": "bolts", "name": "Bolts", "schema": INDEXED})


def names(*attributes: str) -> dict[str, bool]:
    return {indexes.name_of("bolts", name): True for name in attributes}


def test_indexes_follow_the_schemas():
    make_collections()
    assert indexes.existing() == names("size", "article", "metal")
    schema = attributes(colour={"type": "string", "x-filterable": True})
    editing.change_collection("bolts", {"schema": schema})
    assert indexes.existing() == names("colour")
    editing.delete_collection("bolts")
    assert indexes.existing() == {}


def test_index_is_what_a_filter_uses():
    make_collections()
    for number in range(100):
        make_item(collection="bolts", code=f"m{number}", attributes={"size": number})
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        if connection.vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    rows = Item.objects.annotate(value=AttributeValue("size", "attributes"))
    rows = rows.filter(collection="bolts", value=40).order_by("sort_key", "id")
    try:
        plan = rows.explain()
    finally:
        connection.close()
    assert indexes.name_of("bolts", "size") in plan
    Item.objects.filter(collection="bolts").delete()


def test_longest_values_fit_into_an_index():
    make_collections()
    # Of four bytes each, which do not compress.
    letters = "".join(chr(0x20000 + number * 7919 % 40_000) for number in range(1_000))
    schema = editing.get_collection("bolts").attributes
    assert schema.errors({"article": letters[:251]}).keys() == {"article"}
    make_item(
        collection="bolts", id=letters[:100], code="m8",
        name=letters[100:300], attributes={"article": letters[300:550]},
    )  # fmt: skip
    assert Item.objects.filter(collection="bolts").exists()
    Item.objects.filter(collection="bolts").delete()


def test_doctor_names_missing_and_invalid_indexes(monkeypatch):
    make_collections()
    (finding,) = indexes.examine()
    assert finding.level is Level.OK
    gone, broken = (indexes.name_of("bolts", name) for name in ("size", "metal"))
    with connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX {gone}")
        if connection.vendor == "postgresql":
            cursor.execute(INVALIDATE, [broken])
    texts = [finding.what for finding in indexes.examine()]
    assert "The index of the attribute size of bolts is missing." in texts
    if connection.vendor == "postgresql":
        assert "The index of the attribute metal of bolts is invalid." in texts
    assert indexes.synchronize() > 0
    assert [finding.level for finding in indexes.examine()] == [Level.OK]
    assert indexes.existing() == names("size", "article", "metal")


@pytest.mark.once
@pytest.mark.once  # PostgreSQL's locks
def test_indexes_are_made_by_one_process_at_a_time(other_session):
    with other_session.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [indexes.LOCK])
    make_collections()
    assert indexes.existing() == {}
    with other_session.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(%s)", [indexes.LOCK])
    assert indexes.synchronize() == 3


@pytest.fixture
def other_session():
    other = connection.copy()
    yield other
    other.close()
