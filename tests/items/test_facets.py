"""Counts of values: alike on both databases."""

import pytest
from django.http import QueryDict

from items import facets, fields
from items.facets import VALUES_MAX
from items.list_query import ListQuery
from items.models import Collection, Item
from tests.factories import create_items, make_item

pytestmark = pytest.mark.django_db

FACETS = "/api/v1/items/-/facets"
FILTERABLE = {"x-filterable": True}
PROPERTIES = {
    "metal": {"type": "string"} | FILTERABLE,
    "size": {"type": "integer"} | FILTERABLE,
    "is_old": {"type": "boolean"} | FILTERABLE,
    "rate": {"type": "number"} | FILTERABLE,
    "hidden": {"type": "string"},
}


@pytest.fixture
def bolts(db: None) -> None:
    schema = {"properties": PROPERTIES}
    Collection.objects.create(key="bolts", name="Bolts", schema=schema)
    rows = {
        "a": {"metal": "brass", "size": 8, "is_old": True, "hidden": "h"},
        "b": {"metal": "brass", "size": 10, "is_old": False, "rate": 0.5},
        "c": {"metal": "5", "size": -5, "is_old": False},
        "d": {"metal": "true"},
        "e": {},
    }
    for code, attributes in rows.items():
        tags = ["t", code]
        make_item(
            collection="bolts", code=code, name=code, attributes=attributes, tags=tags
        )
    make_item(id="z", name="z", status="retired", tags=["t"])


def counts(response) -> dict:
    assert response.status_code == 200, response.content
    return {
        name: {one["value"]: one["count"] for one in facet["values"]}
        for name, facet in response.json()["facets"].items()
    }


def test_facets_count_the_items_of_the_same_filters(anonymous_api, bolts):
    assert counts(anonymous_api.get(FACETS)) == {
        "collection": {"bolts": 5, "general": 1},
        "tag": {"t": 6} | dict.fromkeys("abcde", 1),
        "status": {"active": 5, "retired": 1},
    }
    assert counts(anonymous_api.get(f"{FACETS}?collection=bolts")) == {
        "collection": {"bolts": 5},
        "tag": {"t": 5} | dict.fromkeys("abcde", 1),
        "status": {"active": 5},
        "attributes.metal": {"brass": 2, "5": 1, "true": 1},
        "attributes.size": {8: 1, 10: 1, -5: 1},
        "attributes.is_old": {False: 2, True: 1},
    }
    found = counts(anonymous_api.get(f"{FACETS}?tag=t&search=z"))
    assert found == {
        "collection": {"general": 1}, "tag": {"t": 1}, "status": {"retired": 1},
    }  # fmt: skip
    query = "collection=bolts&attributes.metal=brass&attributes.size__gt=8"
    assert counts(anonymous_api.get(f"{FACETS}?{query}"))["tag"] == {"b": 1, "t": 1}


@pytest.mark.parametrize("query", ["search=%25", "tag=unknown", "search=nothing"])
def test_facets_of_no_item_are_empty(anonymous_api, bolts, query):
    response = anonymous_api.get(f"{FACETS}?{query}")
    assert counts(response) == {"collection": {}, "tag": {}, "status": {}}
    assert (response.json()["counted"], response.json()["is_complete"]) == (0, True)


def test_facets_say_what_was_not_counted(bolts):
    query = ListQuery.parse(QueryDict("ordering=-name"))
    whole, some = facets.count(query, 6), facets.count(query, 5)
    assert (whole.counted, whole.is_complete) == (6, True)
    assert (some.counted, some.is_complete) == (5, False)
    assert sum(n for _, n in some.facets["status"].values) == 5


def test_facets_of_too_many_items_are_of_the_first_ones_by_name(bolts, monkeypatch):
    monkeypatch.setattr("items.search.RARE_ROWS", 0)
    found = facets.count(ListQuery.parse(QueryDict("ordering=-name")), 2)
    assert {value for value, _ in found.facets["tag"].values} == {"t", "a", "b"}


def test_facet_has_the_most_frequent_values(anonymous_api, bolts):
    given = [*range(100, 100 + VALUES_MAX), 100, 101]
    rows = [
        {"collection": "bolts", "code": f"n{n}", "name": "x", "attributes": {"size": s}}
        for n, s in enumerate(given)
    ]
    create_items([fields.clean(row) for row in rows])
    response = anonymous_api.get(f"{FACETS}?collection=bolts")
    found = response.json()["facets"]
    sizes = found["attributes.size"]
    values = [(one["value"], one["count"]) for one in sizes["values"]]
    # Of those that are alike, the first as text.
    assert values[:4] == [(100, 2), (101, 2), (-5, 1), (10, 1)]
    assert len(values) == VALUES_MAX
    assert sizes["has_more"]
    assert not found["attributes.metal"]["has_more"]


def test_facets_reject_what_lists_reject(anonymous_api, bolts):
    for query, parameter in {
        "attributes.metal=brass": "attributes.metal",
        "valid_on=x": "valid_on",
        "ordering=name": "ordering",
    }.items():
        response = anonymous_api.get(f"{FACETS}?{query}")
        assert response.status_code == 400
        assert [*response.json()["errors"]] == [parameter]


def test_facets_answer_at_their_short_address_too(anonymous_api, bolts):
    short = anonymous_api.get("/api/v1/items/facets?status=retired")
    assert short.json() == anonymous_api.get(f"{FACETS}?status=retired").json()
    make_item(id="facets", name="Item")
    assert anonymous_api.get("/api/v1/items/facets").json()["name"] == "Item"


def test_whole_number_may_be_stored_as_a_fraction(anonymous_api, bolts):
    Item.objects.filter(pk="bolts.a").update(attributes={"size": 8.0})
    found = counts(anonymous_api.get(f"{FACETS}?collection=bolts"))
    assert found["attributes.size"] == {8: 1, 10: 1, -5: 1}
