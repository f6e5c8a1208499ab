"""Items that are read in a group are answered as Django answers each of them."""

import pytest
from django.test import Client

from items.api import read_items
from tests.factories import make_item

ITEMS = [
    {"id": 7, "name": "A number"},
    {"id": "größe", "name": "Größe", "aliases": ["size"], "tags": ["b", "a"]},
    {
        "id": "full", "name": "Full", "labels": {"de": "Voll"}, "status": "draft",
        "attributes": {"n": 1.5, "list": [1, "x"]}, "valid_from": "2020-01-31",
        "links": [{"relation": "closeMatch", "target": "7"}], "parent": "7",
    },
]  # fmt: skip


@pytest.fixture
def items(db) -> list[str]:
    return [make_item(**one).pk for one in ITEMS]


def test_group_has_the_bodies_and_headers_of_single_reads(items, client: Client):
    parts = read_items([{"id": pk} for pk in items])
    for pk, part in zip(items, parts, strict=True):
        assert part
        alone = client.get(f"/api/v1/items/{pk}")
        assert (part.status, part.body) == (200, alone.content)
        own = dict(part.headers)
        # None in the second of the change, which may have just passed.
        own.pop("Last-Modified", None)
        assert own == {name: alone[name] for name in ("ETag", "Cache-Control")}
        assert " ".join(part.tags) == alone["Cache-Tag"]


def test_group_is_one_query(items, django_assert_num_queries):
    with django_assert_num_queries(1):
        read_items([{"id": pk} for pk in items])


def test_what_is_not_plain_is_left_to_django(items):
    make_item(id="old", replaced_by="7")
    assert read_items([{"id": "old"}, {"id": "never"}]) == [None, None]
    assert read_items([{"id": "7"}, {"id": "7"}])[0] is not None
