"""A page of the list of collections, each with the number of its items."""

from typing import Any

from django.db.models import IntegerField
from django.db.models.expressions import RawSQL

from items.models import Collection
from resilient_site.api.keyset import Page, paginate

COUNTED_MAX = 10_000
# By the index: as many as are counted, and one more.
COUNTING = """(SELECT COUNT(*) FROM (
    SELECT 1 FROM items_item WHERE collection_id = items_collection.key LIMIT %s
) AS counted)"""


def find_page(cursor: str | None, size: int) -> Page[Any]:
    """Return collections by key, with `item_count` and `has_more_items`."""
    counted = RawSQL(COUNTING, [COUNTED_MAX + 1], IntegerField())  # noqa: S611 - ours
    page: Page[Any] = paginate(
        Collection.objects.annotate(found=counted),
        ordering="key",
        cursor=cursor,
        size=size,
    )
    for collection in page.rows:
        collection.item_count = min(collection.found, COUNTED_MAX)
        collection.has_more_items = collection.found > COUNTED_MAX
    return page
