"""Rows of several tables by one statement, and what is planned once."""

import pytest
from django.db import IntegrityError, ProgrammingError, connection, transaction

from items.models import Item, ItemChange
from items.reading import find_item
from resilient_site.postgres.statements import fetch_rows, insert_together
from tests.factories import make_item

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL"),
]
AFTER = {"name": 'Ünïcode "quoted" 100 %s', "tags": ["a"]}


def rows(pk: str, version: int = 1) -> tuple[ItemChange, Item]:
    item = Item(id=pk, name=AFTER["name"], search_text="x")
    action = ItemChange.Action.CREATED
    change = ItemChange(
        item_id=pk, version=version, action=action, after=AFTER, actor_name="me"
    )
    return change, item


@pytest.mark.django_db
def test_rows_are_inserted_with_their_values_by_one_statement(
    django_assert_num_queries,
):
    change, item = rows("a")
    with django_assert_num_queries(1):
        insert_together(change, item)
    found, logged = Item.objects.get(), ItemChange.objects.get()
    for name in ("pk", "name", "description", "version", "created_at", "search_text"):
        assert getattr(found, name) == getattr(item, name)
    assert (logged.item_id, logged.version, logged.action) == ("a", 1, "created")
    assert (logged.before, logged.after, logged.at) == (None, AFTER, change.at)
    assert logged.transaction > 0  # which the database has a default for


@pytest.mark.django_db
def test_insert_is_prepared_once():
    for pk in ("a", "b"):
        insert_together(*rows(pk))
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        assert len([text for (text,) in cursor if "INSERT" in text]) == 1
    assert connection.connection.prepare_threshold is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("table", [Item, ItemChange])
def test_violated_constraint_inserts_nothing(table):
    insert_together(*rows("a"))
    change, item = rows("a", version=2) if table is Item else rows("b")
    if table is ItemChange:
        change.item_id = "a"
    with pytest.raises(IntegrityError) as caught:
        insert_together(change, item)
    assert caught.value.__cause__.diag.table_name == table._meta.db_table
    assert [item.pk for item in Item.objects.all()] == ["a"]
    assert [change.version for change in ItemChange.objects.all()] == [1]


@pytest.mark.django_db
def test_statement_is_prepared_once_and_only_this_one():
    make_item(id="bolt", tags=["metal", "round"])
    for _ in range(3):
        item = find_item("bolt")
        assert item
        assert item.tag_names() == ["metal", "round"]
    assert find_item("unknown") is None
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        assert len([text for (text,) in cursor if "items_itemtag" in text]) == 1
    assert connection.connection.prepare_threshold is None


@pytest.mark.django_db
def test_error_is_the_one_of_django():
    with pytest.raises(ProgrammingError), transaction.atomic():
        fetch_rows("SELECT unknown_column", [])
    assert connection.connection.prepare_threshold is None
