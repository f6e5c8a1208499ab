"""Rows of several tables by one statement."""

import pytest
from django.db import IntegrityError, connection

from items.models import Item, ItemChange
from resilient_site.postgres.multi_table_insert import insert_together

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
