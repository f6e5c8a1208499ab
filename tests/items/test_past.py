"""Items as they were: a version, or the state at a time. Alike on both databases."""

from datetime import timedelta
from itertools import chain

import pytest
from django.db import connection
from django.utils import timezone

from items import catalogue, past
from items.models import Item, ItemChange
from items.past import PastList
from tests.factories import TESTER, changes_of, make_item, make_items

pytestmark = pytest.mark.django_db

ITEMS = "/api/v1/items"


def get(api, path: str = "", **query):
    return api.get(f"{ITEMS}{path}", query)


def times() -> dict[str, str]:
    """When each version was made, as `bolt 2`."""
    changes = ItemChange.objects.all()
    return {f"{c.item_id} {c.version}": c.at.isoformat() for c in changes}


@pytest.fixture
def bolt(anonymous_api) -> list[dict]:
    """Two versions as they were read, then deleted; created anew and purged."""
    make_item(id="bolt", name="One")
    seen = [get(anonymous_api, "/bolt").json()]
    catalogue.update_item("bolt", {"name": "Two", "tags": []}, actor=TESTER)
    seen.append(get(anonymous_api, "/bolt").json())
    catalogue.delete_item("bolt", actor=TESTER)
    return seen


def test_version_is_shown_as_it_was_read_then(anonymous_api, bolt):
    for number, seen in enumerate(bolt, 1):
        response = get(anonymous_api, "/bolt", version=number)
        assert response.json() == seen
        at = get(anonymous_api, "/bolt", as_of=seen["updated_at"])
        assert at.json() == seen
        assert 'rel="latest-version"' in response["Link"]
        assert response["ETag"] == at["ETag"]
    some = get(anonymous_api, "/bolt", version=1, fields="name").json()
    assert some == {"id": "bolt", "name": "One"}


def test_item_created_anew_has_its_new_time_of_creation(anonymous_api, bolt):
    catalogue.undo(changes_of("bolt")[0], actor=TESTER)
    anew = get(anonymous_api, "/bolt").json()
    assert anew["version"] == 4
    assert get(anonymous_api, "/bolt", version=4).json() == anew
    assert get(anonymous_api, "/bolt", version=2).json() == bolt[1]


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/bolt", {"version": 9}, 404, "version_not_found"),
        ("/never", {"version": 1}, 404, "item_not_found"),
        ("/bolt", {"as_of": "2001-01-01T00:00:00Z"}, 404, "item_not_found"),
        ("/bolt", {"version": 3}, 410, "item_deleted"),
        ("/bolt", {"as_of": "bolt 3"}, 410, "item_deleted"),
    ],
)
def test_what_was_not_there_is_404_or_410(
    anonymous_api, bolt, path, query, status, code
):
    query = {name: times().get(value, value) for name, value in query.items()}
    response = get(anonymous_api, path, **query)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert ("deleted_at" in response.json()) == (code == "item_deleted")


def test_purged_states_are_410_and_not_listed(anonymous_api, bolt):
    make_item(id="nut")
    at = times()["nut 1"]
    assert len(get(anonymous_api, as_of=at).json()["results"]) == 1
    catalogue.purge_items(["bolt", "nut"], actor=TESTER)
    for path, version, code in (
        ("/bolt", 1, "item_purged"),
        ("/bolt", 3, "item_deleted"),
        ("/nut", 1, "item_purged"),
        ("/nut", 2, "item_purged"),
    ):
        response = get(anonymous_api, path, version=version)
        assert (response.status_code, response.json()["code"]) == (410, code)
    assert get(anonymous_api, "/nut", as_of=at).status_code == 410
    assert get(anonymous_api, as_of=at).json()["results"] == []


@pytest.mark.once
@pytest.mark.parametrize(
    ("path", "query", "parameter"),
    [
        ("/a", {"version": "x"}, "version"),
        ("/a", {"version": "0"}, "version"),
        ("/a", {"version": "99999999999"}, "version"),
        ("/a", {"version": "1", "as_of": "2026-01-01T00:00:00Z"}, "as_of"),
        ("/a", {"version": "1", "expand": "parent"}, "expand"),
        *(
            (path, query, parameter)
            for path in ("", "/a")
            for query, parameter in (
                ({"as_of": "yesterday"}, "as_of"),
                ({"as_of": "2026-01-01"}, "as_of"),
                ({"as_of": "2999-01-01T00:00:00Z"}, "as_of"),
                ({"as_of": "9999-12-31T23:59:59-23:00"}, "as_of"),
                ({"as_of": "2026-01-01T00:00:00Z", "expand": "links"}, "expand"),
            )
        ),
        *(
            ("", {"as_of": "2026-01-01T00:00:00Z", name: value}, name)
            for name, value in (
                ("search", "x"),
                ("ancestor", "a"),
                ("updated_since", "2026-01-01T00:00:00Z"),
                ("attributes.size", "1"),
                ("count", "true"),
                ("ordering", "name"),
                ("valid_on", "x"),
                ("collection", "A b"),
            )
        ),
    ],
)
def test_bad_parameter_is_400_and_named(anonymous_api, path, query, parameter):
    make_item(id="a")
    response = get(anonymous_api, path, **query)
    assert response.status_code == 400, response.content
    assert [*response.json()["errors"]] == [parameter]


def test_time_is_in_utc_unless_it_says_otherwise(anonymous_api):
    item = make_item(id="a")
    utc, east = item.updated_at, item.updated_at + timedelta(hours=2)
    for text in (
        f"{utc:%Y-%m-%dT%H:%M:%S.%f}",
        f"{utc:%Y-%m-%d %H:%M:%S.%f}",
        f"{utc:%Y-%m-%dT%H:%M:%S.%f}Z",
        f"{east:%Y-%m-%dT%H:%M:%S.%f}+02:00",
    ):
        for path in ("/a", ""):
            assert get(anonymous_api, path, as_of=text).status_code == 200
            # As clients send it that do not escape a +.
            assert anonymous_api.get(f"{ITEMS}{path}?as_of={text}").status_code == 200
    before = f"{utc - timedelta(microseconds=1):%Y-%m-%dT%H:%M:%S.%f}"
    assert get(anonymous_api, "/a", as_of=before).status_code == 404


def test_list_is_filtered_by_what_items_were(anonymous_api):
    """Whatever they are now."""
    catalogue_of = {"collection": "general"}
    make_item(id="a", tags=["x", "yy"], valid_to="2025-12-31", **catalogue_of)
    make_item(id="b", tags=["x"], parent="a", status="deprecated")
    make_item(id="c", tags=[], parent="b", status="draft", valid_from="2025-01-01")
    make_item(id="null", tags=[])
    at = times()["null 1"]
    for item_id in ("c", "null"):
        catalogue.delete_item(item_id, actor=TESTER)
    emptied = {"parent": None, "tags": ["late"], "status": "retired"}
    catalogue.update_item("b", emptied, actor=TESTER)

    def listed(**query) -> list[str]:
        response = get(anonymous_api, as_of=at, **query)
        assert response.status_code == 200, response.content
        return [row["id"] for row in response.json()["results"]]

    assert listed() == ["a", "b", "c", "null"]
    assert listed(ordering="-id") == ["null", "c", "b", "a"]
    assert listed(tag="x") == ["a", "b"]
    assert listed(tag=["x", "yy"]) == ["a"]
    assert listed(tag="y") == listed(tag="late") == []
    assert listed(status=["draft", "deprecated"]) == ["b", "c"]
    assert listed(parent=["a", "null"]) == ["b"]
    assert listed(code=["c", "a"]) == ["a", "c"]
    assert listed(collection="general") == ["a", "b", "c", "null"]
    assert listed(collection="other") == []
    assert listed(valid_on="2025-06-01") == ["a", "b", "null"]
    assert listed(valid_on="2026-06-01") == ["b", "null"]


def test_state_of_an_earlier_release_has_what_items_had_by_default(anonymous_api):
    make_item(id="a", tags=["x"])
    state = {"name": "Old", "description": "", "tags": ["x"]}
    ItemChange.objects.update(after=state)
    now = timezone.now().isoformat()
    for query in ({}, {"collection": "general"}, {"code": "a"}, {"status": "active"},
                  {"tag": "x"}, {"valid_on": "2026-01-01"}):  # fmt: skip
        [row] = get(anonymous_api, as_of=now, **query).json()["results"]
        assert row.keys() == get(anonymous_api, "/a").json().keys()
        assert (row["name"], row["code"], row["status"]) == ("Old", "a", "active")


@pytest.mark.parametrize("ordering", ["id", "-id"])
@pytest.mark.parametrize("scanned", [past.SCANNED_MAX, 5])
def test_pages_of_the_past_are_linked(anonymous_api, ordering, scanned, monkeypatch):
    """Also if a page looks at few changes, and finds less than it has room for."""
    monkeypatch.setattr(past, "SCANNED_MAX", scanned)
    make_items(20, tags=["t"])
    late = [f"item-{n:05}" for n in (0, 3, 4, 5, 6, 7, 8, 19)]
    catalogue.delete_items(late, actor=TESTER)
    at = timezone.now().isoformat()
    expected = [*Item.objects.order_by(ordering).values_list("pk", flat=True)]
    for item_id in late:
        make_item(id=item_id)
    catalogue.update_item(expected[0], {"tags": []}, actor=TESTER)

    def walk(url: str, towards: str) -> list[list[str]]:
        pages = []
        while url:
            page = anonymous_api.get(url).json()
            pages.append([row["id"] for row in page["results"]])
            seen.append(page)
            url = page[towards]
        return pages

    seen: list[dict] = []
    query = f"as_of={at.replace('+', '%2B')}&ordering={ordering}&page_size=3&tag=t"
    pages = walk(f"{ITEMS}?{query}", "next")
    assert [*chain(*pages)] == expected
    assert max(map(len, pages)) <= 3
    assert (len(pages) > 4) == (scanned == 5)
    with_rows = [page for page in seen if page["results"]]
    before = walk(with_rows[-1]["previous"], "previous")
    last = [row["id"] for row in with_rows[-1]["results"]]
    assert [*chain(*reversed(before)), *last] == expected
    cursor = seen[0]["next"].partition("cursor=")[2].partition("&")[0]
    assert get(anonymous_api, cursor=cursor).status_code == 400


@pytest.mark.once
def test_past_is_shared_for_long_once_it_is_settled(anonymous_api, monkeypatch):
    make_item(id="a")
    make_item(id="b")

    def shared(path: str = "", **query) -> tuple[bool, str]:
        response = get(anonymous_api, path, **query)
        is_long = "s-maxage=3600" in response["Cache-Control"]
        return is_long, response.get("Cache-Tag", "")

    at = times()["b 1"]
    assert shared("/a", version=1) == (True, "item:a")
    assert shared("/a", as_of=at) == (False, "item:a")
    assert shared(as_of=at) == (False, "items")
    later = timezone.now() + timedelta(hours=1, minutes=1)
    monkeypatch.setattr(past.timezone, "now", lambda: later)
    assert shared("/a", as_of=at) == (True, "item:a")
    assert shared(as_of=at) == (True, "")


@pytest.mark.once
def test_reads_of_the_past_take_a_fixed_number_of_queries(
    anonymous_api, django_assert_num_queries
):
    make_items(60, tags=["t"])
    at = timezone.now().isoformat()
    for path, query, number in (
        ("/item-00009", {"version": 1}, 1),
        ("/item-00009", {"as_of": at}, 1),
        ("", {"as_of": at, "tag": "t", "status": "active", "fields": "name"}, 2),
    ):
        with django_assert_num_queries(number):
            assert get(anonymous_api, path, **query).status_code == 200


def test_page_of_the_past_is_read_by_the_index_of_versions():
    """From its place on, not from the beginning of the log."""
    make_items(300)
    rows = PastList(timezone.now(), {}, (), "item_id").rows().order_by("item_id", "id")
    index = "sqlite_autoindex_items_itemchange_1"  # of the same constraint
    if connection.vendor == "postgresql":
        index = "itemchange_once_per_version"
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE items_itemchange; SET LOCAL enable_seqscan = off")
    plan = rows.filter(item_id__gt="item-00200")[:5].explain()
    assert plan.count(index) == 3, plan
