"""Filters of lists beside those of single fields: alike on both databases."""

import json
from datetime import UTC, datetime

import pytest
from django.utils import timezone

from items import list_query
from items.models import Collection, Item
from tests.factories import make_item
from tests.items.test_search import pages

pytestmark = pytest.mark.django_db

ITEMS = "/api/v1/items"
FILTERABLE = {"x-filterable": True}
PROPERTIES = {
    "alpha": {"type": "string"} | FILTERABLE,
    "size": {"type": "integer"} | FILTERABLE,
    "rate": {"type": "number"} | FILTERABLE,
    "is_old": {"type": "boolean"} | FILTERABLE,
    "since": {"type": "string", "format": "date"} | FILTERABLE,
    "words": {"type": "array", "items": {"type": "string"}} | FILTERABLE,
    "hidden": {"type": "string"},
}


@pytest.fixture
def bolt_collection(db: None) -> None:
    schema = {"properties": PROPERTIES}
    Collection.objects.create(key="bolts", name="Bolts", schema=schema)


@pytest.fixture
def bolts(bolt_collection: None) -> None:
    rows = {
        "a": {"alpha": "X", "size": 8, "rate": 0.5, "is_old": True},
        "b": {"alpha": "x", "size": 10, "rate": 2, "is_old": False, "hidden": "h"},
        "c": {"alpha": "true", "size": -5, "since": "2026-01-31", "words": ["w"]},
        "d": {"alpha": "R&D, etc", "since": "2025-12-31"},
        "e": {},
    }
    for code, attributes in rows.items():
        make_item(collection="bolts", code=code, name=code, attributes=attributes)
    make_item(id="z", name="z", attributes={"alpha": "X", "size": 8})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("alpha=X", "a"),
        ("alpha=X&attributes.alpha=x", "ab"),
        ("alpha=true", "c"),
        ("alpha=R%26D,%20etc", "d"),
        ("alpha=", ""),
        ("alpha__in=X,x,nothing", "ab"),
        ("alpha__isnull=true", "e"),
        ("alpha__isnull=false", "abcd"),
        ("size=8", "a"),
        ("size=10.0", "b"),
        ("size__in=8,-5", "ac"),
        ("size__gt=8", "b"),
        ("size__gte=8", "ab"),
        ("size__lt=8", "c"),
        ("size__lte=8", "ac"),
        ("size__gt=-10&attributes.size__lt=9", "ac"),
        ("rate=0.5", "a"),
        ("rate=2", "b"),
        ("rate__gt=0.75", "b"),
        ("is_old=true", "a"),
        ("is_old=false", "b"),
        ("since=2026-01-31", "c"),
        ("since__lt=2026-01-01", "d"),
        ("since__gte=2025-12-31", "cd"),
        ("alpha=X&attributes.size=10", ""),
    ],
)
def test_items_are_filtered_by_typed_attributes(anonymous_api, bolts, query, expected):
    found = anonymous_api.get(f"{ITEMS}?collection=bolts&attributes.{query}&count=true")
    assert found.status_code == 200, found.content
    assert [item["code"] for item in found.json()["results"]] == [*expected]
    assert found.json()["total"] == len(expected)


@pytest.mark.parametrize("name", ["valid_on", "code", "status", "updated_since"])
def test_filter_of_spaces_alone_is_none(anonymous_api, client, name):
    make_item(id="bolt")
    now = timezone.now().isoformat().replace("+00:00", "Z")
    for more in ("", f"&as_of={now}") if name != "updated_since" else ("",):
        response = anonymous_api.get(f"{ITEMS}?{name}=%20{more}")
        assert [one["id"] for one in response.json()["results"]] == ["bolt"]
    assert client.get(f"/items/?{name}=%20").status_code == 200
    assert anonymous_api.get(f"{ITEMS}/-/facets?{name}=%20").json()["counted"] == 1


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("attributes.alpha=X", "attributes.alpha"),
        ("collection=bolts&collection=general&attributes.alpha=X", "attributes.alpha"),
        ("collection=nothing&attributes.alpha=X", "attributes.alpha"),
        ("collection=bolts&attributes.hidden=X", "attributes.hidden"),
        ("collection=bolts&attributes.words=X", "attributes.words"),
        ("collection=bolts&attributes.unknown=X", "attributes.unknown"),
        ("collection=bolts&attributes.=X", "attributes."),
        ("collection=bolts&attributes.alpha__=X", "attributes.alpha__"),
        ("collection=bolts&attributes.alpha__like=X", "attributes.alpha__like"),
        ("collection=bolts&attributes.alpha__gt=X", "attributes.alpha__gt"),
        ("collection=bolts&attributes.alpha=%00", "attributes.alpha"),
        ("collection=bolts&attributes.alpha__isnull=1", "attributes.alpha__isnull"),
        ("collection=bolts&attributes.size=big", "attributes.size"),
        ("collection=bolts&attributes.size=8.5", "attributes.size"),
        ("collection=bolts&attributes.size=", "attributes.size"),
        ("collection=bolts&attributes.size__in=1,x", "attributes.size__in"),
        ("collection=bolts&attributes.rate=nan", "attributes.rate"),
        ("collection=bolts&attributes.rate=1_0", "attributes.rate"),
        ("collection=bolts&attributes.rate=1e999", "attributes.rate"),
        ("collection=bolts&attributes.rate=99999999999999999", "attributes.rate"),
        ("collection=bolts&attributes.is_old=1", "attributes.is_old"),
        ("collection=bolts&attributes.is_old__gt=true", "attributes.is_old__gt"),
        ("collection=bolts&attributes.since__gt=x", "attributes.since__gt"),
        ("collection=bolts&attributes.since__gt=", "attributes.since__gt"),
        ("collection=bolts" + "&attributes.alpha=X" * 101, "attributes.alpha"),
        ("collection=bolts&attributes.alpha__in=" + "X," * 100, "attributes.alpha__in"),
        ("valid_on=today", "valid_on"),
        ("updated_since=yesterday", "updated_since"),
        ("updated_since=2026-13-01T00:00:00Z", "updated_since"),
        ("updated_since=0001-01-01T00:00:00%2B02:00", "updated_since"),
        ("ancestor=a%20b", "ancestor"),
        ("count=yes", "count"),
    ],
    ids=lambda value: value[:60],
)
def test_bad_filter_is_400_and_names_the_parameter(
    anonymous_api, bolt_collection, query, parameter
):
    response = anonymous_api.get(f"{ITEMS}?{query}")
    assert response.status_code == 400, response.content
    problem = json.loads(response.content)
    assert (problem["code"], [*problem["errors"]]) == ("invalid", [parameter])


def codes(response) -> str:
    assert response.status_code == 200, response.content
    return "".join(item["id"] for item in response.json()["results"])


def test_items_are_filtered_by_the_day_on_which_they_are_valid(anonymous_api):
    for name, values in {
        "a": {},
        "b": {"valid_from": "2026-01-01"},
        "c": {"valid_to": "2026-01-01"},
        "d": {"valid_from": "2026-01-01", "valid_to": "2026-01-31"},
        "e": {"status": "deprecated"},
        "f": {"status": "retired"},
        "g": {"status": "draft"},
        "h": {"status": "retired", "valid_to": "2026-01-30"},
        "i": {"status": "draft", "valid_to": "2026-01-31"},
    }.items():
        make_item(id=name, name=name, **values)
    for day, expected in {
        "2025-12-31": "aceh",
        "2026-01-01": "abcdeh",
        "2026-01-31": "abde",
        "2026-02-01": "abe",
    }.items():
        assert codes(anonymous_api.get(f"{ITEMS}?valid_on={day}")) == expected


def test_items_are_filtered_by_the_time_of_their_change(anonymous_api):
    for name, hour in ("a", 10), ("b", 12):
        at = datetime(2026, 1, 1, hour, tzinfo=UTC)
        make_item(id=name, name=name)
        Item.objects.filter(pk=name).update(updated_at=at)
    for since, expected in {
        "2026-01-01T12:00:00Z": "b",
        "2026-01-01T12:00:00": "b",
        "2026-01-01T12:00:01Z": "",
        "2026-01-01T12:00:00%2B02:00": "ab",
    }.items():
        assert codes(anonymous_api.get(f"{ITEMS}?updated_since={since}")) == expected


def test_items_are_filtered_by_what_is_above_them(anonymous_api):
    for name, parent in ("a", None), ("b", "a"), ("c", "b"), ("d", None), ("e", "d"):
        make_item(id=name, name=name, parent=parent)
    assert codes(anonymous_api.get(f"{ITEMS}?ancestor=a")) == "bc"
    assert codes(anonymous_api.get(f"{ITEMS}?ancestor=b&ancestor=d")) == "ce"
    assert codes(anonymous_api.get(f"{ITEMS}?ancestor=unknown")) == ""
    export = anonymous_api.get(f"{ITEMS}/-/export?format=ndjson&ancestor=a")
    found = [json.loads(line)["id"] for line in export.getvalue().splitlines()]
    assert found == ["b", "c"]


@pytest.mark.parametrize("more", [{}, {"valid_on": "2026-01-01"}])
@pytest.mark.parametrize("size", [1, 2, 50])
def test_subtree_is_paged_by_name_in_both_directions(size, more):
    names = ["top", "c", "a", "B 2", "B 10", "a", "d", "other"]
    parents = [None, 0, 0, 1, 2, 1, 5, None]
    for n, (name, parent) in enumerate(zip(names, parents, strict=True)):
        above = None if parent is None else f"n{parent}"
        make_item(id=f"n{n}", name=name, parent=above)
    by_name = ["n2", "n5", "n3", "n4", "n1", "n6"]
    assert pages("", size, ancestor="n0", **more) == by_name
    assert pages("", size, ancestor="n0", ordering="-name", **more) == by_name[::-1]
    by_id = pages("", size, ancestor="n0", ordering="id", **more)
    assert by_id == sorted(by_name)


def test_pages_of_a_filtered_list_are_linked_with_the_filter(anonymous_api, bolts):
    query = "collection=bolts&attributes.size__lte=8&page_size=1&count=true"
    first = anonymous_api.get(f"{ITEMS}?{query}").json()
    second = anonymous_api.get(first["next"]).json()
    assert [first["total"], second["total"], second["next"]] == [2, 2, None]
    assert [row["code"] for row in first["results"] + second["results"]] == ["a", "c"]


def test_total_is_counted_up_to_its_limit(anonymous_api, bolts, monkeypatch):
    monkeypatch.setattr(list_query, "COUNTED_MAX", 3)
    assert anonymous_api.get(f"{ITEMS}?count=true").json()["total"] == 3
    assert "total" not in anonymous_api.get(ITEMS).json()
