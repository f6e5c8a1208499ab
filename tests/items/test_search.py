"""Search finds the same on both databases."""

import pytest
from django.db import connection

from items import catalogue
from items.models import Item
from tests.factories import TESTER, make_item

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def some_items():
    make_item(id="aland", name="Åland Islands", description="Country code AX, ALA")
    make_item(id="ivory", name="Côte d'Ivoire", description="Country code CI, 50% \\ _")
    make_item(id="cpp", name="C++ compiler", description="The GNU compiler\nfor C++")
    make_item(id="jp", name="日本語", description="Japanese language")


def found(text: str) -> set[str]:
    return set(Item.objects.search(text).values_list("pk", flat=True))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("aland", {"aland"}),
        ("ÅLAND", {"aland"}),
        ("land isl", {"aland"}),
        ("ountr", {"aland", "ivory"}),
        ("country ivoire", {"ivory"}),
        ("ax", {"aland"}),
        ("x", set()),
        ("c", {"aland", "ivory", "cpp"}),
        ("gnu c", {"cpp"}),
        ("c++", {"aland", "ivory", "cpp"}),
        ("日本語", {"jp"}),
        ("日", {"jp"}),
        ("%", {"aland", "ivory", "cpp", "jp"}),
        ("compiler gnu the for", {"cpp"}),
        ('"quoted" OR NOT', set()),
        ("nothinglikethis", set()),
    ],
)
def test_search_finds_every_word_in_name_or_description(text, ids):
    assert found(text) == ids


def test_search_sees_edits_and_deletions_at_once():
    catalogue.update_item("cpp", {"name": "Rust"}, actor=TESTER)
    assert found("rust") == {"cpp"}
    catalogue.update_item("cpp", {"description": "Crab"}, actor=TESTER)
    assert found("gnu") == set()
    catalogue.delete_item("cpp", actor=TESTER)
    assert found("rust") == set()


def test_search_index_exists():
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                "INSERT INTO items_search_index (items_search_index, rank) "
                "VALUES ('integrity-check', 1)"
            )
        else:
            cursor.execute("SET LOCAL enable_seqscan = off")
            plan = Item.objects.search("zzzyyy").order_by().explain()
            assert "item_by_trigram" in plan
