"""The REST contract of collections."""

import pytest
from rest_framework.test import APIClient

from items.collections import editing, list_query
from items.models import Collection, Item
from tests.factories import allow, make_item, make_items
from tests.items.test_api import assert_problem

pytestmark = pytest.mark.django_db

COLLECTIONS = "/api/v1/collections"
BOLTS = f"{COLLECTIONS}/bolts"
SCHEMA = {
    "properties": {
        "length_mm": {"type": "integer", "minimum": 1},
        "article": {"type": "string", "x-unique": True},
    },
    "required": ["length_mm"],
    "x-order": ["length_mm", "article"],
}


@pytest.fixture
def bolts(db) -> Collection:
    return editing.create_collection(
        {"key": "bolts", "name": "Bolts", "schema": SCHEMA}
    )


def make_bolt(code: str, **attributes) -> Item:
    return make_item(collection="bolts", code=code, attributes=attributes)


def test_created_collection_is_read_and_listed(api):
    body = {"key": "bolts", "name": "Bolts", "schema": SCHEMA, "licence": "CC0-1.0"}

    created = api.post(COLLECTIONS, body)
    make_bolt("m8", length_mm=40)

    assert created.status_code == 201
    assert created["Location"] == f"http://testserver{BOLTS}"
    read = api.get(f"{BOLTS}/")
    assert read.json() == created.json()
    assert body.items() <= read.json().items()
    assert read["ETag"] == created["ETag"]
    listed = api.get(COLLECTIONS).json()["results"]
    assert [(row["key"], row["item_count"]) for row in listed] == [
        ("bolts", 1), ("general", 0),
    ]  # fmt: skip
    assert listed[0] == read.json() | {"item_count": 1, "has_more_items": False}
    assert api.get(f"{BOLTS}/schema").json() == SCHEMA


@pytest.mark.once
def test_list_counts_to_a_bound_and_is_paged(api, bolts, monkeypatch):
    make_items(3)
    monkeypatch.setattr(list_query, "COUNTED_MAX", 2)
    first = api.get(COLLECTIONS, {"page_size": 1}).json()
    second = api.get(first["next"]).json()
    assert [row["key"] for row in first["results"]] == ["bolts"]
    (general,) = second["results"]
    assert (general["item_count"], general["has_more_items"]) == (2, True)
    assert second["next"] is None


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, ["zinc", "a", "metal"]),
        (["metal", "zinc"], ["metal", "zinc", "a"]),
        (["a", "gone", "a", "metal", "zinc"], ["a", "metal", "zinc"]),
    ],
)
def test_attributes_keep_the_order_they_were_given_in(api, order, expected):
    schema = {
        "properties": {name: {"type": "string"} for name in ("zinc", "a", "metal")}
    }
    body = {"key": "bolts", "name": "Bolts"}
    body["schema"] = schema if order is None else schema | {"x-order": order}
    assert api.post(COLLECTIONS, body).status_code == 201
    for shown in (
        api.get(BOLTS).json()["schema"],
        api.get(f"{BOLTS}/schema").json(),
        api.get(COLLECTIONS).json()["results"][0]["schema"],
    ):
        assert list(shown["properties"]) == shown["x-order"] == expected
    attributes = Collection.objects.get(pk="bolts").attributes
    assert list(attributes.properties) == expected


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"key": "Bolts!"}, ["key"]),
        ({"name": ""}, ["name"]),
        ({"licence": "x" * 201}, ["licence"]),
        ({"schema": []}, ["schema", "schema"]),
        ({"schema": {"titel": ""}}, ["schema", "schema"]),
        ({"schema": {"title": "\0"}}, ["schema", "schema"]),
        (
            {"schema": {"properties": {"a": {"type": "text"}}}},
            ["schema", "properties.a.type"],
        ),
        (
            {"schema": {"properties": {"a": {"type": "string", "pattern": "("}}}},
            ["schema", "properties.a.pattern"],
        ),
        (
            {"schema": {"properties": {"a": {"type": "integer", "default": "x"}}}},
            ["schema", "properties.a.default"],
        ),
        (
            {"schema": {"properties": {"a": {"type": "string", "x-reference": "no"}}}},
            ["schema", "properties.a.x-reference"],
        ),
        *(
            (
                {"schema": {"properties": {"a": {"type": "string", "pattern": text}}}},
                ["schema", "properties.a.pattern"],
            )
            # What JSON Schema allows, and an engine without backtracking does not.
            for text in ("(?!0)a", r"(a)\1", "(a{1000}){1000}", r"\p{Foo}")
        ),
        *(
            (
                {"schema": {"properties": {"a": {"type": "number", name: 1e20}}}},
                ["schema", f"properties.a.{name}"],
            )
            for name in ("maximum", "default")
        ),
        (
            {"schema": {"properties": [[[] for _ in range(3)]]}},
            ["schema", "properties"],
        ),
        ({"schema": {"required": [{}]}}, ["schema", "required.0"]),
        ({"schema": {"properties": {}, "required": ["a"]}}, ["schema", "required"]),
        ({"schema": {"required": ["a"]}}, ["schema", "required"]),
    ],
    ids=str,
)
def test_error_names_its_place(api, wrong, place):
    body = {"key": "bolts", "name": "Bolts"} | wrong
    found = assert_problem(api.post(COLLECTIONS, body), 400, "invalid")["errors"]
    for name in place:
        assert list(found) == [name]
        found = found[name]
    assert all(isinstance(message, str) for message in found)


def test_schema_that_is_nested_too_deep_is_an_error(api):
    deep = "[" * 400 + "]" * 400
    body = f'{{"key": "deep", "name": "Deep", "schema": {deep}}}'
    response = api.post(COLLECTIONS, body, content_type="application/json")
    assert "schema" in assert_problem(response, 400, "invalid")["errors"]["schema"]


def test_numbers_that_the_database_writes_out_are_read_again(api):
    """JSONB keeps 1e20 as a whole number of 21 digits."""
    api.post(COLLECTIONS, {"key": "bolts", "name": "Bolts"})
    limits = {"properties": {"size": {"type": "number", "maximum": 1e20}}}
    Collection.objects.filter(pk="bolts").update(schema=limits)
    assert api.get(COLLECTIONS).status_code == 200
    make_item(id="other")
    assert api.delete("/api/v1/items/other").status_code == 204
    assert api.patch(BOLTS, {"schema": {}}).status_code == 200


def test_default_is_stored_as_an_attribute_is(api):
    number = {"type": "integer", "default": 5.0, "x-filterable": True}
    body = {"key": "bolts", "name": "Bolts", "schema": {"properties": {"n": number}}}
    shown = api.post(COLLECTIONS, body).json()["schema"]["properties"]["n"]
    assert repr(shown["default"]) == "5"


@pytest.mark.once
def test_unknown_members_are_rejected_unless_lenient(api, bolts):
    response = api.patch(BOLTS, {"nam": "x"})
    problem = assert_problem(response, 400, "unknown_field")
    assert "“name”" in problem["errors"]["nam"][0]
    response = api.patch(BOLTS, {"nam": "x"}, headers={"Prefer": "handling=lenient"})
    assert response.status_code == 200


@pytest.mark.once
def test_taken_key_missing_collection_and_changed_key_are_refused(api, bolts):
    response = api.post(COLLECTIONS, {"key": "bolts", "name": "Other"})
    assert_problem(response, 400, "collection_exists", "Collection already exists")
    for call in (api.get, api.delete, lambda path: api.patch(path, {"name": "x"})):
        assert_problem(call(f"{COLLECTIONS}/nix"), 404, "collection_not_found")
    assert_problem(api.get(f"{COLLECTIONS}/nix/schema"), 404, "collection_not_found")
    problem = assert_problem(api.patch(BOLTS, {"key": "nuts"}), 400, "invalid")
    assert list(problem["errors"]) == ["key"]


def test_put_empties_what_it_leaves_out(api, bolts):
    api.patch(BOLTS, {"description": "By ISO 4014", "licence": "CC0-1.0"})
    response = api.put(BOLTS, {"name": "Hex bolts", "licence": "CC0-1.0"})
    assert response.status_code == 200
    shown = response.json()
    assert (shown["name"], shown["description"], shown["schema"]) == (
        "Hex bolts", "", {},
    )  # fmt: skip
    assert shown["licence"] == "CC0-1.0"
    assert shown["version"] == 3


@pytest.mark.once
def test_write_is_conditional(api, bolts):
    stale = {"If-Match": '"7"'}
    for write in (
        lambda: api.patch(BOLTS, {"name": "x"}, headers=stale),
        lambda: api.put(f"{BOLTS}/schema", {}, headers=stale),
        lambda: api.delete(BOLTS, headers=stale),
    ):
        assert_problem(write(), 412, "stale_version")
    bolts.refresh_from_db()
    assert (bolts.version, bolts.schema, bolts.next_schema) == (1, SCHEMA, None)
    response = api.patch(BOLTS, {"name": "x"}, headers={"If-Match": bolts.etag})
    assert response.json()["version"] == 2
    assert api.patch(BOLTS, {"name": "x"})["ETag"] == response["ETag"]  # no difference


@pytest.mark.once
def test_change_of_schema_is_carried_out_once_by_key(api, bolts):
    key = {"Idempotency-Key": "schema-1"}
    first = api.put(f"{BOLTS}/schema", {}, headers=key)
    api.put(f"{BOLTS}/schema", SCHEMA)
    second = api.put(f"{BOLTS}/schema", {}, headers=key)
    assert second["Idempotent-Replayed"] == "true"
    assert second.content == first.content == b"{}"
    assert api.get(f"{BOLTS}/schema").json() == SCHEMA


def test_schema_that_items_break_is_refused_with_them(api, bolts):
    make_bolt("m8", length_mm=40)
    make_bolt("m6", length_mm=20)
    tighter = {"properties": {"length_mm": {"type": "integer", "maximum": 30}}}

    problem = assert_problem(
        api.patch(BOLTS, {"schema": tighter, "name": "x"}), 409, "schema_breaks_items"
    )

    assert problem["count"] == 1
    (broken,) = problem["items"]
    assert broken["id"] == "bolts.m8"
    assert list(broken["errors"]["attributes"]) == ["length_mm"]
    bolts.refresh_from_db()
    assert (bolts.name, bolts.schema, bolts.next_schema) == ("Bolts", SCHEMA, None)


@pytest.mark.once
def test_schema_of_many_items_needs_a_job(api, bolts, monkeypatch):
    make_bolt("m8", length_mm=40)
    make_bolt("m6", length_mm=20)
    allowed = editing.introduced.__wrapped__.__kwdefaults__
    monkeypatch.setitem(allowed, "items_max", 1)
    problem = assert_problem(api.put(f"{BOLTS}/schema", {}), 409, "schema_needs_job")
    assert "change_schema" in problem["detail"]
    monkeypatch.setitem(allowed, "items_max", 2)
    assert api.put(f"{BOLTS}/schema", {}).status_code == 200


def test_only_an_empty_collection_is_deleted(api, bolts):
    make_bolt("m8", length_mm=40)
    assert_problem(api.delete(BOLTS), 409, "collection_in_use")
    assert_problem(api.delete(f"{COLLECTIONS}/general"), 409, "collection_in_use")
    api.delete("/api/v1/items/bolts.m8")
    reference = {"properties": {"bolt": {"type": "string", "x-reference": "bolts"}}}
    editing.create_collection({"key": "nuts", "name": "Nuts", "schema": reference})
    problem = assert_problem(api.delete(BOLTS), 409, "collection_in_use")
    assert "“nuts”" in problem["detail"]
    api.delete(f"{COLLECTIONS}/nuts")
    assert api.delete(BOLTS).status_code == 204
    assert not Collection.objects.filter(pk="bolts").exists()


@pytest.mark.once
def test_each_write_needs_its_permission(reader, bolts):
    client = APIClient()
    client.force_authenticate(reader)
    writes = {
        "add_collection": lambda: client.post(COLLECTIONS, {"key": "n", "name": "N"}),
        "change_collection": lambda: client.put(f"{BOLTS}/schema", {}),
        "delete_collection": lambda: client.delete(BOLTS),
    }
    for write in writes.values():
        assert write().status_code == 403
    for permission, write in writes.items():
        allow(reader, permission)
        client.force_authenticate(type(reader).objects.get(pk=reader.pk))
        assert write().status_code < 300
