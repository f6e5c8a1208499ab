"""Keyset pagination skips and repeats no row, whatever is written in between."""

import itertools

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from items import catalogue
from items.list_query import ORDERINGS
from items.models import Item
from resilient_site.api.keyset import Cursor, paginate
from resilient_site.errors import Invalid
from tests.factories import TESTER, make_item, make_items


def walk(ordering: str, size: int, between=lambda: None) -> list[str]:
    seen, cursor = [], None
    while True:
        page = paginate(Item.objects.all(), ordering=ordering, cursor=cursor, size=size)
        seen += [item.pk for item in page.rows]
        if page.next is None:
            return seen
        cursor = page.next
        between()


@pytest.mark.django_db
@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("sort", [False, True])
def test_pages_forwards_and_backwards_are_the_same(ordering, sort):
    make_items(7, name="same name")
    make_items_ = Item.objects.count()
    rows, pages, cursor = Item.objects.all(), [], None
    while True:
        page = paginate(rows, ordering=ordering, cursor=cursor, size=3, sort=sort)
        pages.append([item.pk for item in page.rows])
        if page.next is None:
            break
        cursor = page.next
    assert [len(found) for found in pages] == [3, 3, 1]
    assert make_items_ == 7

    back = [pages[-1]]
    while page.previous:
        page = paginate(
            rows, ordering=ordering, cursor=page.previous, size=3, sort=sort
        )
        back.insert(0, [item.pk for item in page.rows])

    assert back == pages
    assert page.next


@pytest.mark.django_db
def test_first_page_has_no_previous_and_empty_page_no_links():
    page = paginate(Item.objects.all(), ordering="name", cursor=None, size=3)
    assert (list(page.rows), page.next, page.previous) == ([], None, None)
    make_items(3)
    page = paginate(Item.objects.all(), ordering="name", cursor=None, size=3)
    assert (len(page.rows), page.next, page.previous) == (3, None, None)


NO_TIMES = [
    "2020-01-01", "yesterday", 5, "9999-99-99T00:00", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
]  # fmt: skip


@pytest.mark.parametrize(
    ("ordering", "bad"),
    [
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
def test_later_page_is_read_by_the_index():
    make_items(20)
    first = paginate(Item.objects.all(), ordering="name", cursor=None, size=3)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        paginate(Item.objects.all(), ordering="name", cursor=first.next, size=3)
    (query,) = queries
    assert "OFFSET" not in query["sql"]
    plan = paginate_plan(first.next)
    assert "item_by_name" in plan


def paginate_plan(cursor: str) -> str:
    plans = []

    class Explained(type(Item.objects.all())):
        def __getitem__(self, key):
            plans.append(self.explain())
            return super().__getitem__(key)

    with connection.cursor() as sql:
        if connection.vendor == "postgresql":
            sql.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
    paginate(Explained(Item), ordering="name", cursor=cursor, size=3)
    return plans[0]


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

        seen = walk(ordering, size, between)

        assert len(seen) == len(set(seen))
        assert stay <= set(seen)
