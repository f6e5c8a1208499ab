"""Many items at once over REST: `items/-/bulk`, and `items/bulk` for short."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from items.models import ChangeBatch, Item, ItemChange
from tests.factories import allow, make_item

pytestmark = pytest.mark.django_db

BULK, SHORT = "/api/v1/items/-/bulk", "/api/v1/items/bulk"
COUNTS = {"created": 0, "updated": 0, "unchanged": 0, "deleted": 0}


def counts(response: Any) -> dict[str, int]:
    return {name: response.json()[name] for name in COUNTS}


@pytest.mark.parametrize("url", [BULK, f"{BULK}/", SHORT, f"{SHORT}/"])
def test_each_method_writes_many_items(api, url):
    made = api.post(url, [{"id": 1, "name": "A"}, {"id": "b", "name": "B"}])
    assert (made.status_code, counts(made)) == (201, COUNTS | {"created": 2})
    assert [item["id"] for item in made.json()["results"]] == [1, "b"]
    assert made.json()["results"][0] == api.get("/api/v1/items/1").json()

    put = api.put(url, [{"id": "b", "name": "C"}, {"id": "c", "name": "C"}])
    assert (put.status_code, counts(put)) == (
        200,
        COUNTS | {"created": 1, "updated": 1},
    )

    row = {"id": 1, "version": 1, "tags": ["t"]}
    patch = api.patch(url, [row, {"code": "b", "name": "C"}])
    assert counts(patch) == COUNTS | {"updated": 1, "unchanged": 1}
    assert [item["version"] for item in patch.json()["results"]] == [2, 2]

    gone = api.delete(url, [1, {"id": "b", "version": 2}, {"code": "c"}])
    assert (gone.status_code, counts(gone)) == (200, COUNTS | {"deleted": 3})
    assert "results" not in gone.json()
    batches = [answer.json()["batch"] for answer in (made, put, patch, gone)]
    assert [str(batch.pk) for batch in ChangeBatch.objects.order_by("pk")] == batches
    titles = ["Bulk create", "Bulk replace", "Bulk change", "Bulk delete"]
    assert [
        *ChangeBatch.objects.order_by("pk").values_list("title", flat=True)
    ] == titles
    history = api.get("/api/v1/items/1/history").json()["results"]
    assert [change["batch"] for change in history] == [batches[n] for n in (3, 2, 0)]


def test_change_without_a_difference_has_no_batch(api):
    make_item(id="a", name="A")
    response = api.patch(BULK, [{"id": "a", "name": "A"}])
    assert counts(response) == COUNTS | {"unchanged": 1}
    assert response.json()["batch"] is None


def test_merge_patch_of_many_items_changes_single_members(api):
    make_item(id="a", attributes={"n": 1, "m": 2})
    body = b'[{"id": "a", "attributes": {"n": null}}]'
    merge = "application/merge-patch+json"
    response = api.generic("PATCH", BULK, body, content_type=merge)
    assert response.json()["results"][0]["attributes"] == {"m": 2}


@pytest.mark.parametrize(
    ("method", "body", "status", "code", "errors"),
    [
        ("post", [{"name": "n"}, {"id": "a", "name": ""}], 400, "invalid", {"1"}),
        ("post", [{"name": "n", "nam": 1}, 5], 400, "unknown_field", {"0", "1"}),
        ("post", [{"id": "a", "name": "n"}], 400, "invalid", {"0"}),
        ("put", [{"name": "n"}], 400, "invalid", {"0"}),
        ("patch", [{"id": "a", "version": 2}], 409, "stale_version", {"0"}),
        ("patch", [{"id": "a", "version": 2}, {"id": "no"}], 400, "invalid",
         {"0", "1"}),
        ("delete", ["a", "no"], 400, "invalid", {"1"}),
        ("delete", [{"id": "a", "version": 2}], 409, "stale_version", {"0"}),
        ("delete", [{"id": "a", "name": "x"}], 400, "unknown_field", {"0"}),
    ],
)  # fmt: skip
def test_error_names_the_rows_and_nothing_is_written(
    api, method, body, status, code, errors
):
    make_item(id="a")
    response = getattr(api, method)(BULK, body)
    problem = response.json()
    assert response["Content-Type"] == "application/problem+json"
    assert (response.status_code, problem["code"]) == (status, code)
    assert problem["errors"].keys() == errors
    assert ItemChange.objects.count() == Item.objects.count() == 1
    assert not ChangeBatch.objects.exists()


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
@pytest.mark.parametrize("body", [[], {}, [{"name": "a"}] * 1_001, None], ids=str)
def test_body_is_a_list_of_1_to_1000_rows(api, method, body):
    response = getattr(api, method)(BULK, body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
    assert "1 to 1,000" in response.json()["detail"]


def test_deletion_of_what_others_refer_to_names_them(api):
    make_item(id="up")
    make_item(id="down", parent="up")
    response = api.delete(BULK, ["up"])
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "item_referenced")
    assert [found["item"] for found in problem["references"]] == ["down"]
    assert api.delete(BULK, ["up", "down"]).json()["deleted"] == 2


def test_item_may_be_called_bulk(api):
    """An object, or no body, is about that item, and a list about any."""
    assert api.put(SHORT, {"name": "x"}).status_code == 404
    assert api.get(SHORT).status_code == 404
    rows = [{"id": "bulk", "name": "First"}, {"id": "other", "name": "Other"}]
    assert api.post(SHORT, rows).status_code == 201
    assert api.get(SHORT).json()["name"] == "First"
    assert api.put(SHORT, {"name": "Second"}).json()["version"] == 2
    assert api.patch(SHORT, {"name": "Third"}).json()["version"] == 3
    assert api.patch(SHORT, [{"id": "bulk", "name": "Fourth"}]).json()["updated"] == 1
    assert api.delete(SHORT, ["other"]).json()["deleted"] == 1
    etag = api.get(SHORT)["ETag"]
    assert api.delete(SHORT, headers={"If-Match": '"1-0"'}).status_code == 412
    assert api.delete(SHORT, headers={"If-Match": etag}).status_code == 204
    assert api.get(SHORT).status_code == 410
    for method in (api.get, api.head):
        assert method(BULK).status_code == 405


# What each method takes; a PUT may create and change.
NEEDED = {
    "post": {"add_item"},
    "put": {"add_item", "change_item"},
    "patch": {"change_item"},
    "delete": {"delete_item"},
}


@pytest.mark.parametrize("method", NEEDED)
@pytest.mark.parametrize("url", [BULK, SHORT])
def test_each_method_needs_the_permissions_of_one_item(
    reader, anonymous_api, method, url
):
    body = ["a"] if method == "delete" else [{"id": "a", "name": "x"}]

    def status(*codenames: str) -> int:
        reader.user_permissions.clear()
        allow(reader, *codenames)
        client = APIClient()
        client.force_authenticate(User.objects.get(pk=reader.pk))
        return getattr(client, method)(url, body).status_code

    assert getattr(anonymous_api, method)(url, body).status_code == 401
    everything = {"add_item", "change_item", "delete_item"}
    assert {status(*(everything - {name})) for name in NEEDED[method]} == {403}
    make_item(id="a")
    assert status(*NEEDED[method]) == (400 if method == "post" else 200)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("post", [{"name": "Once"}]),
        ("put", [{"id": "a", "name": "Once"}]),
        ("patch", [{"id": "a", "name": "Once", "version": 1}]),
        ("delete", ["a"]),
    ],
)
def test_repeated_call_with_its_key_is_carried_out_once(api, method, body):
    make_item(id="a")
    headers = {"Idempotency-Key": "k1"}
    first = getattr(api, method)(BULK, body, headers=headers)
    changes = ItemChange.objects.count()
    second = getattr(api, method)(BULK, body, headers=headers)
    assert (first.status_code, second.content) == (second.status_code, first.content)
    assert second["Idempotent-Replayed"] == "true"
    assert ItemChange.objects.count() == changes == 2
    other = getattr(api, method)(BULK, [*body, *body], headers=headers)
    assert other.status_code == 422


def test_what_the_catalogue_decided_is_replayed_and_what_is_invalid_is_not(api):
    make_item(id="a")
    headers = {"Idempotency-Key": "k1"}
    assert api.delete(BULK, [{"a": 1}], headers=headers).status_code == 400
    stale = [{"id": "a", "version": 2}]
    assert api.delete(BULK, stale, headers=headers).status_code == 409
    response = api.delete(BULK, stale, headers=headers)
    assert response["Idempotent-Replayed"] == "true"


def test_unknown_members_are_ignored_on_request(api):
    lenient = {"Prefer": "handling=lenient"}
    rows = [{"id": "a", "name": "x", "nam": 1}]
    assert api.post(BULK, rows, headers=lenient).status_code == 201
    rows = [{"id": "a", "name": "x", "nam": 1}]
    assert api.delete(BULK, rows, headers=lenient).status_code == 200


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_precondition_of_the_call_speaks_of_no_item(api, method):
    """A client that sends one believes that it is protected: rows have versions."""
    make_item(id="a")
    body = [{"id": "a", "name": "x"}] if method != "delete" else ["a"]
    response = getattr(api, method)(BULK, body, headers={"If-Match": '"1-0"'})
    assert response.status_code == 412
    assert ItemChange.objects.count() == 1
