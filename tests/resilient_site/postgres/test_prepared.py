"""Reads by key that PostgreSQL plans once a connection."""

import pytest
from django.db import ProgrammingError, connection, transaction

from items.catalogue import find_item
from resilient_site.postgres.prepared import fetch_row
from tests.factories import make_item

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.once,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL"),
]


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


def test_error_is_the_one_of_django():
    with pytest.raises(ProgrammingError), transaction.atomic():
        fetch_row("SELECT unknown_column", [])
    assert connection.connection.prepare_threshold is None
