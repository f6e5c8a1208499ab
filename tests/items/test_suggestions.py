"""The closest names of a search that finds nothing: alike on both databases."""

import pytest
from django.db import connection, transaction

from items import suggestions
from items.models import Collection, Item
from items.search import with_a_part_of_each
from items.suggestions import SUGGESTED_MAX
from tests.factories import make_item, make_items

pytestmark = pytest.mark.django_db

ITEMS = "/api/v1/items"
NAMES = {
    "us": "United States",
    "uk": "United Kingdom",
    "de": "Germany",
    "ci": "Côte d’Ivoire",
    "valve": "Turbine valve, brass",
    "jp": "東京都",
}


@pytest.fixture
def some_items(db: None) -> None:
    for pk, name in NAMES.items():
        make_item(id=pk, name=name, labels={"de": "Deutschland"} if pk == "de" else {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Germny", ["Germany"]),
        ("Gremany", ["Germany"]),
        ("ermany", [None]),  # found
        ("xermany", ["Germany"]),
        ("Deutchland", ["Deutschland"]),
        ("untied states", ["United States"]),
        ("unitd kingdm", ["United Kingdom"]),
        ("cote divoir", [None]),  # found
        ("cote divoiry", ["Côte d’Ivoire"]),
        ("valv turbime", ["Turbine valve, brass"]),
        ("brazs", ["Turbine valve, brass"]),
        ("東京区", ["東京都"]),
        ("nothinglikethis", []),
        ("zz", []),
        ("%", []),
    ],
)
def test_search_that_finds_nothing_suggests_the_closest_name(
    anonymous_api, some_items, text, expected
):
    found = anonymous_api.get(ITEMS, {"search": text}).json()
    assert found.get("suggestions", [None])[:1] == expected


def test_name_is_suggested_by_half_of_a_word_wherever_it_stands(
    anonymous_api, some_items, monkeypatch
):
    monkeypatch.setattr(suggestions, "NEIGHBOURS", 1)
    make_items(3, name="Zzz")
    for text, expected in {"zxrmany": "Germany", "zurbine": NAMES["valve"]}.items():
        found = anonymous_api.get(ITEMS, {"search": text}).json()
        assert found["suggestions"] == [expected]


def test_suggestions_are_of_items_within_the_filters(anonymous_api, some_items):
    Collection.objects.create(key="nation", name="Nations")
    make_item(collection="nation", code="g", name="Germania", tags=["old"])

    def suggested(**filters: str) -> list[str]:
        query = {"search": "germanie"} | filters
        return anonymous_api.get(ITEMS, query).json()["suggestions"]

    assert suggested() == ["Germania", "Germany"]
    assert suggested(collection="nation") == ["Germania"]
    assert suggested(tag="old") == ["Germania"]
    assert suggested(status="retired") == []


def test_suggestions_are_few_and_each_once(anonymous_api):
    make_items(20, name="Sprocket")
    for letter in "abcdefgh":
        make_item(name=f"Sprocket {letter}")
    names = anonymous_api.get(ITEMS, {"search": "sproket"}).json()["suggestions"]
    assert names[:2] == ["Sprocket", "Sprocket a"]
    assert len(names) == SUGGESTED_MAX


def test_only_an_empty_first_page_of_a_search_has_suggestions(
    anonymous_api, some_items
):
    for query in ("search=germany", "tag=unknown", ""):
        assert "suggestions" not in anonymous_api.get(f"{ITEMS}?{query}").json()
    page = anonymous_api.get(f"{ITEMS}?search=united&page_size=1").json()
    Item.objects.all().delete()
    assert "suggestions" not in anonymous_api.get(page["next"]).json()


def test_candidates_are_found_by_the_search_index():
    rows = with_a_part_of_each(Item.objects.order_by(), [[" xyz", "zzz"], ["yyy"]], 9)
    if connection.vendor == "sqlite":
        assert "items_search_index" in str(rows.query)
        return
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("SET LOCAL enable_seqscan = off")
        assert "item_by_trigram" in rows.explain()
