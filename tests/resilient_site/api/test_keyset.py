"""Keyset pagination skips and repeats no row, whatever is written in between."""

import itertools
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from items import catalogue
from items.list_query import ORDERINGS
from items.models import Item, ItemChange
from resilient_site.api.keyset import Cursor, paginate
from resilient_site.errors import Invalid
from tests.factories import TESTER, make_item, make_items


@pytest.mark.django_db
@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("sort", [False, True])
def test_pages_forwards_and_backwards_are_the_same(ordering, sort):
    make_items(7, name="same name")

    def read(cursor: str | None) -> Any:
        rows = Item.objects.all()
        return paginate(rows, ordering=ordering, cursor=cursor, size=3, sort=sort)

    pages = [page := read(None)]
    while page.next:
        pages.append(page := read(page.next))
    ids = [[item.pk for item in page.rows] for page in pages]
    assert [len(found) for found in ids] == [3, 3, 1]
    listed = [pk for found in ids for pk in found]
    assert listed == sorted(listed, reverse=ordering.startswith("-"))

    back = [ids[-1]]
    while page.previous:
        page = read(page.previous)
        back.insert(0, [item.pk for item in page.rows])
    assert back == ids
    assert page.next


NO_TIMES = [
    "2020-01-01", "yesterday", 5, "9999-99-99T00:00", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
]  # fmt: skip


@pytest.mark.parametrize(
    ("ordering", "bad"),
    [
        ("version", Cursor("version", False, (2**63, "a")).encode()),
        *[("name", bad) for bad in ("x", "ä", "====", "W10", "bnVsbA", "e30",
                                    "WyJuYW1lIiwwXQ", "A" * 5000)],
        ("name", Cursor("id", False, ("a",)).encode()),
        ("name", Cursor("name", False, ("a", "b", "c")).encode()),
        ("name", Cursor("name", False, ("a\0", "b")).encode()),
        ("name", Cursor("name", 5, ("a", "b")).encode()),
        ("name", Cursor("name", False, (None, "b")).encode()),
        *[("updated_at", Cursor("updated_at", False, (value, "a")).encode())
          for value in NO_TIMES],
    ],
)  # fmt: skip
@pytest.mark.once
def test_malformed_cursor_is_rejected(ordering, bad):
    with pytest.raises(Invalid) as caught:
        paginate(Item.objects.all(), ordering=ordering, cursor=bad, size=3)
    assert "cursor" in caught.value.errors


@pytest.mark.django_db
@pytest.mark.once
def test_page_after_the_largest_number_is_empty():
    largest = Cursor("id", False, (2**63 - 1,)).encode()
    changes = ItemChange.objects.all()
    assert paginate(changes, ordering="id", cursor=largest, size=3).rows == []


@pytest.mark.django_db
def test_later_page_is_read_by_the_index():
    make_items(20)
    first = paginate(Item.objects.all(), ordering="sort_key", cursor=None, size=3)
    plans = []

    class Explained(type(Item.objects.all())):
        def __getitem__(self, key):
            plans.append(self.explain())
            return super().__getitem__(key)

    with connection.cursor() as sql:
        if connection.vendor == "postgresql":
            sql.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
    with CaptureQueriesContext(connection) as queries:
        paginate(Explained(Item), ordering="sort_key", cursor=first.next, size=3)
    assert "OFFSET" not in queries[-1]["sql"]
    assert "item_by_sort_key" in plans[0]


class PagingWhileOthersWrite(TestCase):
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(["name", "-name", "id", "-id", "created_at", "-created_at"]),
        st.integers(1, 5),
        st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=15),
    )
    def test_rows_that_stay_are_listed_once(self, ordering, size, events):
        """Rows come and go between the pages; those that stay are seen just once."""
        make_items(12, name="twin")
        stay = {f"item-{n:05}" for n in range(0, 12, 2)}
        events, numbers = iter(events), itertools.count()

        def between() -> None:
            create, number = next(events, (None, 0))
            if create:
                make_item(id=f"new-{number:02}-{next(numbers)}", name="twin")
            elif create is False:
                goes = f"item-{number % 6 * 2 + 1:05}"
                if Item.objects.filter(pk=goes).exists():
                    catalogue.delete_item(goes, actor=TESTER)

        seen, cursor = [], None
        while True:
            rows = Item.objects.all()
            page = paginate(rows, ordering=ordering, cursor=cursor, size=size)
            seen += [item.pk for item in page.rows]
            cursor = page.next
            if cursor is None:
                break
            between()

        assert len(seen) == len(set(seen))
        assert stay <= set(seen)
