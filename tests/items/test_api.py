"""The REST contract of the catalogue."""

import csv
import io
import json
import re
from datetime import datetime, timedelta
from urllib.parse import quote, unquote

import pytest
from django.db import connection
from django.utils.http import http_date

from items import catalogue
from items.imports.flat_columns import plain_layout
from items.models import Item, ItemChange
from tests.factories import TESTER, make_item, make_items

pytestmark = [pytest.mark.once, pytest.mark.django_db]

ITEMS = "/api/v1/items"


def assert_problem(response, status: int, code: str, detail: str | None = None):
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    problem = json.loads(response.content)
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["request_id"] == response["X-Request-ID"]
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    if detail:
        assert problem["detail"] == detail
    return problem


# --- the three calls of a simple client


@pytest.mark.parametrize("slash", ["", "/"])
def test_created_item_is_read_back(api, slash):
    body = {"id": 7, "name": "Foo", "description": "Bar"}

    created = api.post(ITEMS + slash, body)
    read = api.get(f"{ITEMS}/7{slash}")

    assert created.status_code == 201
    assert created["Location"] == f"http://testserver{ITEMS}/7"
    assert created["ETag"] == read["ETag"] == Item.objects.get().etag
    assert created.json() == read.json()
    assert body.items() <= read.json().items()
    assert read.json()["tags"] == []
    assert read["Cache-Control"]


def test_taken_id_is_400_item_exists(api):
    make_item(id="7")
    response = api.post(f"{ITEMS}/", {"id": 7, "name": "Foo"})
    assert_problem(response, 400, "item_exists", "Item already exists")


@pytest.mark.parametrize("item_id", ["8", "nix", "with%20space", "..", "a:b~c"])
def test_unknown_id_is_404(anonymous_api, item_id):
    response = anonymous_api.get(f"{ITEMS}/{item_id}")
    assert_problem(response, 404, "item_not_found", "Item not found")


# --- creating


def test_post_without_id_generates_one(api):
    response = api.post(f"{ITEMS}/", {"name": "Foo", "tags": ["B", "a"]})
    assert (response.status_code, response.json()["tags"]) == (201, ["a", "b"])
    assert api.get(response["Location"]).json() == response.json()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"name"}),
        ({"name": ""}, {"name"}),
        ({"name": None}, {"name"}),
        ({"name": 5}, {"name"}),
        ({"name": "n" * 201}, {"name"}),
        ({"name": "a\0b"}, {"name"}),
        ({"name": "n", "description": 1}, {"description"}),
        ({"name": "n", "description": "a\0b"}, {"description"}),
        ({"name": "n", "description": "d" * 10_001}, {"description"}),
        ({"name": "n", "tags": "of a form"}, {"tags"}),
        ({"name": "n", "tags": [1]}, {"tags"}),
        ({"name": "n", "tags": {"a": 1}}, {"tags"}),
        ({"id": "a/b", "name": ""}, {"id", "name"}),
        ({"id": True, "name": "n"}, {"id"}),
        ({"id": "", "name": "n"}, {"id"}),
        ([], {"non_field_errors"}),
        ("text", {"non_field_errors"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_body_is_400_and_names_the_fields(api, body, fields):
    response = api.post(f"{ITEMS}/", body)

    problem = assert_problem(response, 400, "invalid")
    assert set(problem["errors"]) == fields
    assert not Item.objects.exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "errors"),
    [
        ("post", "items", {"name": "n", "desciption": "d"}, {"desciption"}),
        ("post", "items", {"nmae": "n"}, {"nmae", "name"}),
        ("put", "items/a", {"name": "n", "desciption": "d"}, {"desciption"}),
        ("patch", "items/a", {"desciption": "d"}, {"desciption"}),
        ("post", "items/-/bulk", [{"name": "n"}, {"name": "n", "tag": []}], {"1"}),
    ],
)
def test_unknown_member_is_400_unless_the_client_is_lenient(
    api, method, path, body, errors
):
    make_item(id="a", name="A")
    send = getattr(api, method)

    problem = assert_problem(send(f"/api/v1/{path}", body), 400, "unknown_field")
    assert set(problem["errors"]) == errors
    suggestions = [
        f"Did you mean “{name}”?" for name in ("name", "description", "tags")
    ]
    assert any(hint in json.dumps(problem, ensure_ascii=False) for hint in suggestions)
    assert (Item.objects.count(), catalogue.get_item("a").version) == (1, 1)

    if "name" not in errors:
        headers = {"Prefer": "handling=lenient", "Idempotency-Key": "k"}
        for _ in range(2):
            response = send(f"/api/v1/{path}", body, headers=headers)
            assert response.status_code in (200, 201)
            assert response["Preference-Applied"] == "handling=lenient"


def test_problem_names_no_more_unknown_members_than_a_person_reads(api):
    body = {"name": "n", **{f"{n:0500}": 1 for n in range(1000)}}
    response = api.post(ITEMS, body)
    assert_problem(response, 400, "unknown_field")
    assert len(response.content) < 10_000


@pytest.mark.parametrize(
    ("path", "parameter", "hint"),
    [
        ("items?tags=currency&page_size=5", "tags", "Did you mean “tag”?"),
        ("items?q=euro", "q", "Known are ancestor, as_of, attributes.NAME, code"),
        (
            "items/a?page_size=5",
            "page_size",
            "Known are as_of, expand, fields, version",
        ),
        ("items/a/history?cursors=x", "cursors", "“cursor”"),
        ("items/-/export?fromat=csv", "fromat", "“format”"),
        ("changes?sinse=now", "sinse", "“since”"),
        ("changes/events?sinse=now", "sinse", "“since”"),
        ("tasks?x=1", "x", "none is expected"),
        ("jobs?states=failed", "states", "“state”"),
        ("heavy_computation?sizes=5", "sizes", "“size”"),
        ("schema?format=json", "format", "none is expected"),
    ],
)
def test_unknown_parameter_is_400_unless_the_client_is_lenient(
    api, path, parameter, hint
):
    make_item(id="a")
    problem = assert_problem(api.get(f"/api/v1/{path}"), 400, "unknown_parameter")
    assert list(problem["errors"]) == [parameter]
    assert hint in problem["errors"][parameter][0]
    if not path.startswith(("changes/", "heavy")):  # these go on for long
        response = api.get(f"/api/v1/{path}", headers={"Prefer": "handling=lenient"})
        assert response.status_code == 200
        assert response["Preference-Applied"] == "handling=lenient"
        assert "public" not in response.get("Cache-Control", "")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("options", "items?search=x&page_size=5", 200),
        ("options", "heavy_computation?size=5", 200),
        ("options", "items?q=x", 200),
        ("delete", "items?search=x", 405),
        ("delete", "heavy_computation?size=5", 405),
    ],
)
def test_parameters_of_a_method_without_a_handler_are_not_judged(
    api, method, path, status
):
    response = getattr(api, method)(f"/api/v1/{path}")
    assert response.status_code == status


def test_writes_take_no_parameters(api):
    make_item(id="a")
    for send, path in ((api.post, ""), (api.patch, "/a"), (api.delete, "/a")):
        response = send(f"{ITEMS}{path}?dry_run=1", {"name": "n"})
        assert_problem(response, 400, "unknown_parameter")
    assert catalogue.get_item("a").version == 1


@pytest.mark.parametrize(
    ("charset", "encoding", "status", "named"),
    [
        ("utf-8", "utf-8", 201, ""),
        ("UTF-8", "utf-8-sig", 201, ""),
        ("utf-8", "utf-16", 400, "UTF-16"),
        ("utf-8", "utf-32-be", 400, "UTF-32-BE"),
        ("utf-16", "utf-16", 415, "utf-16"),
        ("iso-8859-1", "iso-8859-1", 415, "iso-8859-1"),
    ],
)
def test_body_in_another_encoding_is_rejected_by_its_name(
    api, charset, encoding, status, named
):
    body = '{"name": "Zürich"}'.encode(encoding)
    kind = f'application/json; charset="{charset}"'
    response = api.post(ITEMS, body, content_type=kind)
    assert response.status_code == status
    if status == 201:
        assert response.json()["name"] == "Zürich"
    else:
        assert named in response.json()["detail"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff", b'{"name": "\\ud800"}', b'{"id": NaN}', b"[" * 100_000],
    ids=lambda raw: repr(raw[:20]),
)
def test_body_that_is_not_json_is_400(api, raw):
    response = api.post(f"{ITEMS}/", raw, content_type="application/json")
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"


def test_body_of_another_type_or_size_is_rejected(api, settings):
    response = api.post(f"{ITEMS}/", "name=x", content_type="text/plain")
    assert_problem(response, 415, "unsupported_media_type")
    headers = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    response = api.generic("POST", f"{ITEMS}/", b"", **headers)
    assert_problem(response, 411, "length_required")
    settings.MAX_BODY_BYTES = 100
    response = api.post(f"{ITEMS}/", {"name": "n", "description": "d" * 200})
    assert_problem(response, 413, "too_large")


# --- who may write


def test_reading_is_open_and_writing_is_not(anonymous_api, reader):
    make_item(id="a")
    assert anonymous_api.get(f"{ITEMS}/a").status_code == 200

    for call in (anonymous_api.put, anonymous_api.patch, anonymous_api.delete):
        response = call(f"{ITEMS}/a", {"name": "x"})
        assert_problem(response, 401, "not_authenticated")
        assert response["WWW-Authenticate"] == 'Bearer realm="api"'

    anonymous_api.force_authenticate(reader)
    for response in (
        anonymous_api.post(f"{ITEMS}/", {"name": "x"}),
        anonymous_api.post(f"{ITEMS}/-/bulk", [{"name": "x"}]),
        anonymous_api.patch(f"{ITEMS}/a", {"name": "x"}),
        anonymous_api.delete(f"{ITEMS}/a"),
    ):
        assert_problem(response, 403, "permission_denied")


# --- changing


def test_put_replaces_and_patch_changes(api):
    make_item(id="a", name="A", description="D", tags=["t"])

    patched = api.patch(f"{ITEMS}/a", {"name": "B"})
    assert patched.json()["description"] == "D"
    assert patched.json()["version"] == 2
    assert patched["ETag"] == Item.objects.get().etag

    put = api.put(f"{ITEMS}/a/", {"name": "C"})
    assert (put.json()["description"], put.json()["tags"]) == ("", [])
    assert api.put(f"{ITEMS}/a", {"description": "x"}).status_code == 400


def test_read_only_members_are_ignored_but_the_id_is_not(api):
    make_item(id="5", name="A")
    body = api.get(f"{ITEMS}/5").json() | {"name": "B"}
    forged = {"version": 99, "created_at": "1999-01-01T00:00:00Z"}
    assert api.put(f"{ITEMS}/5", body | forged).json()["name"] == "B"
    item = Item.objects.get()
    assert (item.version, item.search_text) == (2, "\r 5 b m8 40 mm")
    assert item.created_at.year > 1999
    response = api.patch(f"{ITEMS}/5", {"id": "b"})
    assert "id" in assert_problem(response, 400, "invalid")["errors"]


MERGE_PATCH = "application/merge-patch+json"


def test_merge_patch_changes_single_labels_and_attributes(api):
    kept = {"labels": {"de": "Schraube", "fr": "Vis"}, "attributes": {"m": 8, "l": 40}}
    make_item(id="a", name="A", code="a", description="D", **kept)

    def patch(body, **headers):
        raw = json.dumps(body)
        kind = f"{MERGE_PATCH}; charset=utf-8"
        return api.patch(f"{ITEMS}/a", raw, content_type=kind, headers=headers)

    etag = Item.objects.get().etag
    body = {
        "description": None,
        "labels": {"fr": None, "it": "Vite"},
        "attributes": {"l": 50},
        "tags": ["x"],
        "collection": None,
        "code": None,
    }
    patched = patch(body, **{"If-Match": etag})
    assert patched.status_code == 200, patched.content
    expected = {
        "name": "A",
        "description": "",
        "labels": {"de": "Schraube", "it": "Vite"},
        "attributes": {"l": 50, "m": 8},
        "tags": ["x"],
        "collection": "general",
        "code": "a",
        "version": 2,
    }
    assert {name: patched.json()[name] for name in expected} == expected
    assert_problem(patch({"name": "x"}, **{"If-Match": etag}), 412, "stale_version")
    for body, code in (
        ({"name": None}, "invalid"),
        ({"id": "b"}, "invalid"),
        ([], "invalid"),
        ({"attributes": {"m": json.loads("[" * 900 + "]" * 900)}}, "invalid"),
        ({"attributes": {"m": {"a": {"b": {"c": {"d": None}}}}}}, "invalid"),
        ({"nam": None}, "unknown_field"),
    ):
        assert_problem(patch(body), 400, code)
    assert Item.objects.get().version == 2
    made = api.post(ITEMS, json.dumps({"name": "B"}), content_type=MERGE_PATCH)
    assert_problem(made, 415, "unsupported_media_type")


def test_replaced_item_names_its_successor(api):
    make_item(id="né'w", name="New")
    make_item(id="old", name="Old", status="retired", replaced_by="né'w")
    link = api.get(f"{ITEMS}/old")["Link"]
    found = re.fullmatch('<(.*)>; rel="successor-version"', link)
    assert api.get(found[1]).json()["name"] == "New"
    assert "Link" not in api.get(found[1])


@pytest.mark.parametrize("path", ["", "/children", "/ancestors", "/references"])
def test_deleted_item_is_410_with_the_time_of_the_deletion(api, path):
    make_item(id="a")
    deletion = catalogue.delete_item("a", actor=TESTER)
    for _ in range(2):
        gone = api.get(f"{ITEMS}/a{path}")
        problem = assert_problem(gone, 410, "item_deleted", "Item was deleted")
        assert datetime.fromisoformat(problem["deleted_at"]) == deletion.at
        assert gone["Cache-Control"] == "no-store"
        catalogue.purge_items(["a"], actor=TESTER)


def test_purged_item_is_410_with_the_time_of_the_purge(api):
    make_item(id="a")
    catalogue.purge_items(["a"], actor=TESTER)
    problem = assert_problem(api.get(f"{ITEMS}/a"), 410, "item_deleted")
    purge = ItemChange.objects.get(action="purged")
    assert datetime.fromisoformat(problem["deleted_at"]) == purge.at


def test_deleted_item_takes_no_writes_and_a_new_one_never_has_its_etag(api):
    old = make_item(id="a", name="old")
    assert api.delete(f"{ITEMS}/a").status_code == 204
    for write in (api.delete, api.patch):
        assert_problem(write(f"{ITEMS}/a"), 404, "item_not_found")
    api.post(f"{ITEMS}/", {"id": "a", "name": "new"})
    response = api.get(f"{ITEMS}/a", headers={"If-None-Match": old.etag})
    assert (response.status_code, response.json()["version"]) == (200, 3)
    assert response["ETag"] != old.etag


def test_version_that_exists_again_after_a_restore_is_another_one(api, editor_client):
    """What was read before the restore guards no write of what was written since."""
    earlier = make_item(id="a")
    lost = catalogue.update_item("a", {"name": "lost"}, actor=TESTER)
    columns = {"name": earlier.name, "version": 1, "updated_at": earlier.updated_at}
    Item.objects.update(**columns)
    ItemChange.objects.filter(version=2).delete()
    again = catalogue.update_item("a", {"name": "again"}, actor=TESTER)
    assert again.version == lost.version == 2
    for tag in lost.etag, '"2"':
        response = api.patch(f"{ITEMS}/a", {"name": "x"}, headers={"If-Match": tag})
        assert_problem(response, 412, "stale_version")
    form = {"name": "x", "version": lost.revision}
    assert editor_client.post("/items/a/edit/", form).status_code == 409
    editor_client.post("/items/a/delete/", form)
    assert catalogue.get_item("a").name == "again"
    headers = {"If-Match": again.etag}
    assert api.patch(f"{ITEMS}/a", {"name": "x"}, headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_preconditions_guard_every_write(api, method):
    first = make_item(id="a")
    second = catalogue.update_item("a", {"name": "second"}, actor=TESTER)

    def write(header: str, value: str):
        send = getattr(api, method)
        return send(f"{ITEMS}/a", {"name": "mine"}, headers={header: value})

    for header, value, status, code in (
        ("If-Match", first.etag, 412, "stale_version"),
        ("If-Match", "2", 400, "invalid"),
        ("If-None-Match", "*", 412, "precondition_failed"),
        ("If-Unmodified-Since", "Sat, 01 Jan 2000 00:00:00 GMT", 412, "stale_version"),
        ("If-Unmodified-Since", "yesterday", 400, "invalid"),
    ):
        assert_problem(write(header, value), status, code)
    assert catalogue.get_item("a").name == "second"
    both = f"{first.etag}, {second.etag}"
    assert write("If-Match", both).status_code in (200, 204)


@pytest.mark.parametrize(
    ("path", "body"), [("items", {"name": "n"}), ("items/-/bulk", [{"name": "n"}])]
)
def test_preconditions_guard_creations(api, path, body):
    def create(header: str, value: str):
        return api.post(f"/api/v1/{path}", body, headers={header: value})

    assert_problem(create("If-Match", "*"), 412, "stale_version")
    assert_problem(create("If-Match", "1"), 400, "invalid")
    assert_problem(create("If-Unmodified-Since", "1"), 400, "invalid")
    assert not Item.objects.exists()
    assert create("If-None-Match", "*").status_code == 201


def test_if_match_can_be_required(api, settings):
    settings.REQUIRE_IF_MATCH = True
    make_item(id="a")
    response = api.patch(f"{ITEMS}/a", {"name": "x"})
    assert_problem(response, 428, "precondition_required")


def test_conditional_get_is_304_until_the_item_changes(api):
    item = make_item(id="a")
    headers = {"If-None-Match": item.etag}
    future, past = (item.updated_at + timedelta(minutes=n) for n in (1, -1))
    since = {"If-Modified-Since": http_date(future.timestamp())}
    assert api.get(f"{ITEMS}/a", headers=headers).status_code == 304
    # The present second, in which another change may follow, is no validator.
    for modified, status in ((future, 200), (past, 304)):
        Item.objects.update(updated_at=modified)
        answer = api.get(f"{ITEMS}/a", headers=since)
        assert (answer.status_code, "Last-Modified" in answer) == (
            status,
            status == 304,
        )

    catalogue.update_item("a", {"name": "x"}, actor=TESTER)
    assert api.get(f"{ITEMS}/a", headers=headers).status_code == 200


# --- lists


def test_list_is_paginated_by_links(anonymous_api):
    make_items(7)
    url, seen = f"{ITEMS}/?page_size=3", []
    while url:
        response = anonymous_api.get(url)
        assert response.status_code == 200
        seen += [item["id"] for item in response.json()["results"]]
        url = response.json()["next"]
        assert ('rel="next"' in response.get("Link", "")) == bool(url)
    assert seen == [f"item-{n:05}" for n in range(7)]
    assert 'rel="prev"' in response["Link"]


def test_list_searches_filters_and_orders(anonymous_api):
    make_item(id="a", name="Alpha one", tags=["x", "y"])
    make_item(id="b", name="Beta one", tags=["x"])
    make_item(id="c", name="Gamma two", tags=["y"])

    def ids(query: str) -> list[str]:
        response = anonymous_api.get(f"{ITEMS}?{query}")
        return [item["id"] for item in response.json()["results"]]

    assert ids("search=one") == ["a", "b"]
    assert ids("search=one&ordering=-name") == ["b", "a"]
    assert ids("tag=x&tag=y") == ["a"]
    assert ids("tag=y&search=two") == ["c"]
    assert ids("tag=unknown") == []
    assert ids("ordering=-id") == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("ordering=size", "ordering"),
        ("page_size=0", "page_size"),
        ("page_size=501", "page_size"),
        ("page_size=00000000900000", "page_size"),
        ("page_size=" + "1" * 5000, "page_size"),
        ("page_size=x", "page_size"),
        ("page_size=²", "page_size"),
        ("cursor=x", "cursor"),
        ("search=" + "x" * 201, "search"),
        ("search=%00", "search"),
        ("search=" + "a+" * 17, "search"),
        ("tag=a%22b", "tag"),
    ],
    ids=lambda value: value[:20],
)
def test_bad_query_is_400_and_names_the_parameter(anonymous_api, query, field):
    response = anonymous_api.get(f"{ITEMS}?{query}")
    assert field in assert_problem(response, 400, "invalid")["errors"]


@pytest.mark.parametrize(
    "path",
    ["changes?collection=%00", "tags?search=%00", "items?a%00b=1", "jobs?task=%00"],
)
def test_null_character_in_a_query_is_400_and_names_the_parameter(api, path):
    errors = assert_problem(api.get(f"/api/v1/{path}"), 400, "invalid")["errors"]
    assert list(errors) == [unquote(path).partition("?")[2].partition("=")[0]]


def test_workbook_has_no_cell_that_is_cut_off(api):
    attributes = {f"a{n}": "x" * 3_900 for n in range(12)}
    make_item(id="long", attributes=attributes)
    response = api.get(f"{ITEMS}/-/export?format=xlsx")
    assert "32,767" in assert_problem(response, 400, "invalid")["detail"]
    assert api.get(f"{ITEMS}/-/export?format=csv").status_code == 200


def test_code_and_the_id_made_of_it_are_in_one_form_of_unicode(api):
    made = api.post(ITEMS, {"code": "cafe\u0301", "name": "Café"}).json()
    assert (made["id"], made["code"]) == ("caf\xe9", "caf\xe9")
    path = f"{ITEMS}/{quote(made['id'])}"
    assert api.put(path, api.get(path).json()).status_code == 200
    child = api.post(ITEMS, {"id": "x", "name": "x", "parent": "cafe\u0301"})
    assert child.json()["parent"] == made["id"]


# --- bulk, export, history, changes


def test_bulk_creates_all_or_none(api):
    response = api.post(f"{ITEMS}/-/bulk", [{"name": "a"}, {"id": 2, "name": "b"}])
    assert response.status_code == 201
    assert [item["name"] for item in response.json()["results"]] == ["a", "b"]
    for body, errors in (
        ([{"name": "c"}, {"name": ""}, 5], {"1", "2"}),
        ([{"name": "c"}, {"id": 2, "name": "d"}], {"1"}),
        ([{"id": 3, "name": "c"}, {"id": "3", "name": "d"}], {"1"}),
    ):
        problem = assert_problem(api.post(f"{ITEMS}/-/bulk/", body), 400, "invalid")
        assert set(problem["errors"]) == errors
    assert Item.objects.count() == ItemChange.objects.count() == 2


@pytest.mark.parametrize("body", [[], {}, [{"name": "a"}] * 1001, None], ids=str)
def test_bulk_takes_1_to_1000_items(api, body):
    assert_problem(api.post(f"{ITEMS}/-/bulk", body), 400, "invalid")


def test_export_streams_the_selection(anonymous_api):
    make_item(id="b", name="B", description='say "x", y\nz', tags=["t", "u"])
    make_item(id="a", name="A")
    make_item(id="5", name="Other")

    response = anonymous_api.get(f"{ITEMS}/-/export?search=b")
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert "items.csv" in response["Content-Disposition"]
    lines = csv.DictReader(io.StringIO(response.getvalue().decode(), newline=""))
    (row,) = lines
    assert lines.fieldnames == list(plain_layout().names)
    assert (row["id"], row["description"]) == ("b", 'say "x", y\nz')
    assert (row["tags"], row["version"]) == ("t u", "1")

    ndjson = anonymous_api.get(f"{ITEMS}/-/export/?format=ndjson")
    rows = [json.loads(line) for line in ndjson.getvalue().splitlines()]
    assert [row["id"] for row in rows] == [5, "a", "b"]
    assert rows[2] == anonymous_api.get(f"{ITEMS}/b").json()
    response = anonymous_api.get(f"{ITEMS}/-/export?format=xml")
    assert "format" in assert_problem(response, 400, "invalid")["errors"]


def test_history_outlives_its_item(api, anonymous_api):
    api.post(f"{ITEMS}/", {"id": "a", "name": "A"}, headers={"X-Request-ID": "r-1"})
    api.patch(f"{ITEMS}/a", {"name": "B"})
    api.delete(f"{ITEMS}/a")

    results = api.get(f"{ITEMS}/a/history").json()["results"]

    assert [(r["version"], r["action"]) for r in results] == [
        (3, "deleted"),
        (2, "updated"),
        (1, "created"),
    ]
    assert results[1]["before"]["name"] == "A"
    assert results[1]["after"]["name"] == "B"
    # What a client offers may be the id of another's request.
    assert [r["client_request_id"] for r in results] == ["", "", "r-1"]
    own = {r["request_id"] for r in results}
    assert len(own) == 3
    assert all(len(id) == 32 for id in own)
    assert {r["actor"] for r in results} == {"edith"}
    public = anonymous_api.get(f"{ITEMS}/a/history").json()["results"]
    assert {r["actor"] for r in public} == {None}
    assert_problem(api.get(f"{ITEMS}/nix/history"), 404, "item_not_found")


@pytest.mark.django_db(transaction=True)
def test_change_feed_is_read_to_the_end_and_beyond(api):
    make_items(3)
    url, seen = "/api/v1/changes?page_size=2", []
    for _ in range(3):
        page = api.get(url).json()
        seen += [change["item_id"] for change in page["results"]]
        url = page["next"]
    assert seen == ["item-00000", "item-00001", "item-00002"]
    assert page["results"] == []

    now = api.get("/api/v1/changes?since=now").json()
    assert now["results"] == []
    make_item(id="late")
    for since in (url, now["next"]):
        assert [c["item_id"] for c in api.get(since).json()["results"]] == ["late"]


# Names of routes, of now and of before.
ROUTES = ["new", "import", "bulk", "export", "history", "changes", "edit", "facets"]


@pytest.mark.parametrize("name", ROUTES)
def test_item_may_be_called_like_a_route(api, client, name):
    assert api.post(ITEMS, {"id": name, "name": "First"}).status_code == 201
    for slash in ("", "/"):
        assert api.get(f"{ITEMS}/{name}{slash}").json()["id"] == name
        some = api.get(f"{ITEMS}/{name}{slash}?fields=name&version=1").json()
        assert some == {"id": name, "name": "First"}
    assert api.patch(f"{ITEMS}/{name}", {"name": "Second"}).json()["version"] == 2
    assert api.get(f"{ITEMS}/{name}/history").json()["results"][0]["version"] == 2
    page = client.get(f"/items/{name}/")
    assert (page.status_code, "Second" in page.content.decode()) == (200, True)
    # And the routes go on.
    assert b"Second" in api.get(f"{ITEMS}/-/export").getvalue()
    assert api.post(f"{ITEMS}/bulk", [{"name": "Third"}]).status_code == 201
    assert client.get("/items/-/changes/").status_code == 200
    assert api.delete(f"{ITEMS}/{name}").status_code == 204


def test_bulk_and_export_answer_at_their_addresses_of_before(api):
    assert api.post(f"{ITEMS}/bulk/", [{"id": "a", "name": "A"}]).status_code == 201
    old = api.get(f"{ITEMS}/export?format=ndjson&search=a").getvalue()
    assert old == api.get(f"{ITEMS}/-/export?format=ndjson&search=a").getvalue()
    assert json.loads(old)["id"] == "a"
    for name in ("export", "facets"):
        response = api.get(f"{ITEMS}/{name}?version=1")
        assert_problem(response, 400, "unknown_parameter")
    assert_problem(api.patch(f"{ITEMS}/export", {}), 404, "item_not_found")
    assert_problem(api.get(f"{ITEMS}/bulk"), 404, "item_not_found")


# --- what is outside the views


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("get", "nothing/here", 404, "not_found"),
        ("get", "items/%00", 404, "not_found"),
        ("get", "items/a%00b/history", 404, "not_found"),
        ("get", "%00", 404, "not_found"),
        ("delete", "items/", 405, "method_not_allowed"),
        ("options", "docs", 405, "method_not_allowed"),
        ("post", "docs", 405, "method_not_allowed"),
        ("options", "schema/", 405, "method_not_allowed"),
        ("post", "schema/", 405, "method_not_allowed"),
    ],
)
def test_unknown_path_or_method_is_a_problem(api, method, path, status, code):
    response = getattr(api, method)(f"/api/v1/{path}")
    assert_problem(response, status, code)
    assert ("GET" in response.get("Allow", "")) == (status == 405)


# --- query counts


def test_reads_take_a_fixed_number_of_queries(
    anonymous_api, django_assert_num_queries, django_assert_max_num_queries
):
    make_items(60, tags=["t", "u"])
    with django_assert_num_queries(1):
        anonymous_api.get(f"{ITEMS}/item-00001")
    # PostgreSQL's planner is asked how many rows a filter leaves.
    planned = int(connection.vendor == "postgresql")
    for query, number in (
        ("", 2),
        ("page_size=50", 2),
        ("search=item", 2 + planned),
        ("tag=t&tag=u", 3 + planned),
    ):
        with django_assert_num_queries(number):
            response = anonymous_api.get(f"{ITEMS}?{query}")
        assert len(response.json()["results"]) == 50
    with django_assert_num_queries(1):
        anonymous_api.get(f"{ITEMS}/item-00001/history")
    with django_assert_num_queries(2):
        anonymous_api.get(f"{ITEMS}/-/export").getvalue()
    with django_assert_max_num_queries(3):  # with the horizon
        anonymous_api.get("/api/v1/changes")
