"""Batches over REST: list, read, changes, undo."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from items import catalogue
from items.bulk.batches import begin_batch, finish_batch
from items.models import ChangeBatch, Item
from tests.factories import TESTER, make_item, make_items

pytestmark = pytest.mark.django_db

URL = "/api/v1/batches"


def delete(*ids: str, kind: Any = ChangeBatch.Kind.BULK) -> str:
    batch = begin_batch(kind, f"Delete {ids[0]}", actor=TESTER)
    catalogue.delete_items(ids, actor=TESTER, batch_id=batch.pk)
    finish_batch(batch.pk)
    return str(batch.pk)


def test_batches_are_listed_and_read(api, anonymous_api):
    make_items(3)
    first = delete("item-00000", "item-00001")
    second = delete("item-00002", kind=ChangeBatch.Kind.JOB)
    page = api.get(URL, {"page_size": 1}).json()
    assert [row["id"] for row in page["results"]] == [second]
    page = api.get(page["next"]).json()
    assert [row["id"] for row in page["results"]] == [first]
    assert page["results"] == [api.get(f"{URL}/{first}").json()]
    shown = page["results"][0]
    assert shown["started_at"] < shown["finished_at"]
    assert shown | {"started_at": 0, "finished_at": 0} == {
        "id": first, "kind": "bulk", "title": "Delete item-00000", "actor": "tester",
        "started_at": 0, "finished_at": 0, "created": 0, "updated": 0, "deleted": 2,
        "undoes": None, "undone": False, "undone_by": [],
    }  # fmt: skip
    assert anonymous_api.get(f"{URL}/{first}/").json() == shown | {"actor": None}
    changes = api.get(f"{URL}/{first}/changes", {"page_size": 1}).json()
    assert [row["item_id"] for row in changes["results"]] == ["item-00001"]
    changes = anonymous_api.get(changes["next"]).json()
    [row] = changes["results"]
    assert (row["item_id"], row["batch"], row["actor"]) == ("item-00000", first, None)


def test_list_is_filtered(api):
    make_items(2)
    first, second = delete("item-00000"), delete("item-00001")
    undo = api.post(f"{URL}/{first}/undo", {}).json()["batch"]

    def found(**query: Any) -> set[str]:
        return {row["id"] for row in api.get(URL, query).json()["results"]}

    assert found(kind="undo") == {undo}
    assert found(undone="true") == {first}
    assert found(undone="false", kind="bulk") == {second}


@pytest.mark.parametrize(
    "query", [{"kind": "x"}, {"undone": "x"}, {"cursor": "x"}, {"nix": 1}]
)
def test_wrong_parameter_is_named(api, query):
    response = api.get(URL, query)
    assert response.status_code == 400
    assert response.json()["errors"].keys() == query.keys()


def test_batch_is_undone(api):
    make_items(2)
    batch = delete("item-00000", "item-00001")
    response = api.post(f"{URL}/{batch}/undo", {"skip_conflicts": False})
    assert response.status_code == 200
    result = response.json()
    undo = result.pop("batch")
    counts = {"created": 2, "updated": 0, "deleted": 0}
    assert result == counts | {"conflicts": [], "conflict_count": 0}
    shown = api.get(f"{URL}/{undo}").json()
    assert (shown["kind"], shown["undoes"]) == ("undo", batch)
    assert shown["title"] == "Undo: Delete item-00000"
    shown = api.get(f"{URL}/{batch}").json()
    assert (shown["undone"], shown["undone_by"]) == (True, [undo])
    assert Item.objects.count() == 2


def test_conflicts_are_named_or_skipped(api):
    make_items(2)
    batch = delete("item-00000", "item-00001")
    make_item(id="item-00001")
    response = api.post(f"{URL}/{batch}/undo", {})
    assert response.status_code == 409
    problem = response.json()
    assert (problem["code"], problem["count"]) == ("batch_changed_since", 1)
    [item] = problem["items"]
    assert item == {
        "id": "item-00001", "code": "changed_since", "detail": "It was changed since.",
        "version": 2, "version_now": 3, "changed_by": "tester",
    }  # fmt: skip
    result = api.post(f"{URL}/{batch}/undo", {"skip_conflicts": True}).json()
    assert (result["created"], result["conflict_count"]) == (1, 1)
    assert result["conflicts"] == [item]


def test_undo_is_done_once_for_its_key(api):
    make_items(1)
    batch = delete("item-00000")
    first, second = (
        api.post(f"{URL}/{batch}/undo", {}, headers={"Idempotency-Key": "undo-it"})
        for _ in range(2)
    )
    assert first.json() == second.json()
    assert ChangeBatch.objects.count() == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [({"skip_conflicts": "yes"}, "skip_conflicts"), ({"skip": True}, "skip"),
     ([], "non_field_errors")],
)  # fmt: skip
def test_wrong_body_is_named(api, body, field):
    make_items(1)
    response = api.post(f"{URL}/{delete('item-00000')}/undo", body)
    assert response.status_code == 400
    assert response.json()["errors"].keys() == {field}
    assert not Item.objects.exists()


def test_undo_needs_permissions(reader, anonymous_api):
    make_items(1)
    url = f"{URL}/{delete('item-00000')}/undo"
    assert anonymous_api.post(url, {}).status_code == 401
    client = APIClient()
    client.force_authenticate(reader)
    assert client.post(url, {}).status_code == 403
    assert not Item.objects.exists()


@pytest.mark.parametrize("way", ["", "/changes", "/undo"])
def test_unknown_batch_is_not_found(api, way):
    url = f"{URL}/0193b0f4-7c3e-7a51-9d55-3f1c5a2b7e10{way}"
    response = api.post(url, {}) if way == "/undo" else api.get(url)
    assert (response.status_code, response.json()["code"]) == (404, "batch_not_found")


def test_large_batch_needs_a_job(api):
    make_items(1)
    batch = delete("item-00000")
    ChangeBatch.objects.update(updated=1_000)
    response = api.post(f"{URL}/{batch}/undo", {})
    assert (response.status_code, response.json()["code"]) == (409, "batch_needs_job")
