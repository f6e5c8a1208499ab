"""A disk without room: nothing is half written, and readers do not notice."""

import pytest
from django.db import connection

from items.models import Item, ItemChange
from tests.factories import make_item

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def full_disk():
    """SQLite refuses to grow its file, with the error that a full disk makes."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has no such limit")
    make_item(id="before", name="Before")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count = {cursor.fetchone()[0]}")
        yield
        cursor.execute("PRAGMA max_page_count = 4294967294")


def test_write_on_a_full_disk_is_rejected_whole(api, full_disk):
    rows = [{"name": f"Item {n}", "description": "x" * 9_000} for n in range(100)]
    refused = api.post("/api/v1/items/bulk", rows)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused["Retry-After"]) > 0
    assert [item.pk for item in Item.objects.all()] == ["before"]
    assert ItemChange.objects.count() == 1
    assert api.get("/api/v1/items/before").json()["name"] == "Before"
