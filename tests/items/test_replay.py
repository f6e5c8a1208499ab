"""The past equals what was read at its time, whatever was written before and after."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from items import catalogue, fields
from items.models import Item, ItemChange
from resilient_site.errors import SiteError
from tests.factories import TESTER, changes_of

ITEMS = "/api/v1/items"
IDS = ("7", "a", "b-c")
BODIES = st.fixed_dictionaries(
    {"name": st.sampled_from(["One", "Two"])},
    optional={
        "tags": st.lists(st.sampled_from(["x", "y"])),
        "status": st.sampled_from(["draft", "active", "retired"]),
        "valid_to": st.sampled_from(["2026-06-30", None]),
        "parent": st.sampled_from([*IDS, None]),
    },
)
WRITES = st.tuples(
    st.sampled_from(["create", "update", "update", "delete", "undo", "purge"]),
    st.sampled_from(IDS),
    BODIES,
    st.integers(0, 3),
)
# A filter, and whether it finds an item.
FILTERS: dict[str, Any] = {
    "status=active&status=draft": lambda row: row["status"] != "retired",
    "tag=x": lambda row: "x" in row["tags"],
    "code=7&code=a": lambda row: str(row["id"]) in ("7", "a"),
    "parent=7": lambda row: row["parent"] == 7,
    "valid_on=2026-12-31": lambda row: (
        row["status"] == "active" and row["valid_to"] is None
    ),
}


def write(verb: str, item_id: str, body: dict[str, Any], back: int) -> None:
    data = fields.clean(body, is_json=True)
    match verb:
        case "create":
            catalogue.create_item({"id": item_id} | data, actor=TESTER)
        case "update":
            catalogue.update_item(item_id, data, actor=TESTER)
        case "delete":
            catalogue.delete_item(item_id, actor=TESTER)
        case "purge":
            catalogue.purge_items([item_id], actor=TESTER)
        case "undo":
            for change in changes_of(item_id)[back : back + 1]:
                catalogue.undo(change, actor=TESTER)


@pytest.mark.django_db
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WRITES, min_size=2, max_size=6), st.sampled_from([*FILTERS]))
def test_past_is_what_was_read_then(writes, query):
    Item.objects.all().delete()
    ItemChange.objects.all().delete()
    api = APIClient()

    def rows(query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = api.get(f"{ITEMS}?{query}").json()["results"]
        return found

    read: dict[str, list[dict[str, Any]]] = {}
    begun = [("create", item_id, {"name": "One"}, 0) for item_id in IDS]
    for one in [*begun, *writes]:
        with suppress(SiteError):  # such as an id that is taken
            write(*one)
            if one[0] == "purge":
                for then in read.values():
                    then[:] = [row for row in then if str(row["id"]) != one[1]]
        if latest := ItemChange.objects.order_by("id").last():
            read[f"{latest.at:%Y-%m-%dT%H:%M:%S.%fZ}"] = rows("ordering=id")
    for at, then in read.items():
        assert rows(f"as_of={at}") == then
        expected = [row for row in then if FILTERS[query](row)]
        assert rows(f"as_of={at}&{query}") == expected
        by_id = {str(row["id"]): row for row in then}
        for item_id in IDS:
            response = api.get(f"{ITEMS}/{item_id}?as_of={at}")
            if row := by_id.get(item_id):
                assert response.json() == row
                version = api.get(f"{ITEMS}/{item_id}?version={row['version']}")
                assert version.json() == row
            else:
                assert response.status_code in (404, 410)
