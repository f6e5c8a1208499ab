"""Lookup of codes, and their translation to another collection."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from rest_framework.test import APIClient

from items import rules
from items.collections import lookup
from items.collections.lookup import Day, look_up, translate
from items.models import Collection, Item
from tests.factories import make_item, make_items

DAY = date(2026, 11, 30)
URL = "/api/v1/collections/codes"


@pytest.fixture(autouse=True)
def collections(db: None) -> None:
    for key in ("codes", "others"):
        Collection.objects.create(key=key, name=key)


def make(code: str, **more: Any) -> str:
    """Return the id of a new item of the collection."""
    data = {"collection": "codes", "code": code, "name": f"Name of {code}"}
    return make_item(**data | more).pk


def found(*codes: str, day: date = DAY, key: str = "codes", **more: Any) -> list[Any]:
    return [one.result for one in look_up(key, codes, day=day, **more)]


def test_code_is_found_in_either_form_of_unicode():
    composed, decomposed = "caf\xe9", "cafe\u0301"
    pk = make(composed)
    assert [one["id"] for one in found(composed, decomposed)] == [pk, pk]
    # As a release before this one has stored it.
    Item.objects.filter(pk=pk).update(code=decomposed)
    assert [one and one["id"] for one in found(composed, decomposed)] == [None, pk]


def test_lookup_says_what_a_code_means():
    make("A00/B99", labels={"de": "Ahorn"}, aliases=["Maple"])
    expected = {
        "code": "A00/B99", "found": True, "id": "x", "label": "Ahorn",
        "language": "de", "status": "active", "valid": True, "valid_on": "2026-11-30",
        "successor": None,
    }  # fmt: skip
    expected["id"] = Item.objects.get(code="A00/B99").pk
    # By its code alone, as it is written; what no item can have is unknown.
    asked = ["A00/B99", "Maple", "a00/b99", "", "nul\0", "A" * 101, "A00/B99"]
    assert found(*asked, language="de") == [expected, *[None] * 5, expected]


def test_lookup_in_general_is_by_id():
    make_item(id="7", name="Seven")
    make_item(id="country.DE", name="Germany")
    Item.objects.filter(pk="7").update(code="")  # as the release before this one has it
    (seven, country, other) = found("7", "country.DE", "8", key="general")
    assert (seven["id"], seven["code"], seven["label"]) == (7, "7", "Seven")
    assert (country["id"], other) == ("country.DE", None)


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("de", ("Rot", "de")),
        ("de-AT", ("Rot", "de")),
        ("zh-Hant-TW", ("紅", "zh-Hant")),
        ("zh", ("Red", None)),
        ("de-x-any", ("Rot", "de")),
        ("fr", ("Red", None)),
        ("", ("Red", None)),
    ],
)
def test_label_is_in_the_language_or_a_broader_one_or_the_name(language, expected):
    make("R", name="Red", labels={"de": "Rot", "zh-Hant": "紅", "de-x": "-"})
    (result,) = found("R", language=language)
    assert (result["label"], result["language"]) == expected


@pytest.mark.parametrize(
    ("status", "valid_from", "valid_to", "is_valid"),
    [
        ("active", None, None, True),
        ("deprecated", None, None, True),
        ("draft", None, None, False),
        ("retired", None, None, False),
        ("retired", None, "2026-11-29", False),
        ("retired", "2026-01-01", "2026-11-30", True),
        ("draft", "2026-01-01", "2026-11-30", False),
        ("active", "2026-11-30", None, True),
        ("active", "2026-12-01", None, False),
        ("active", None, "2026-11-30", True),
        ("active", "2026-01-01", "2026-11-29", False),
    ],
)
def test_code_is_valid_when_in_use_and_on_its_days(
    status, valid_from, valid_to, is_valid
):
    make("A", status=status, valid_from=valid_from, valid_to=valid_to)
    (result,) = found("A")
    assert (result["valid"], result["status"]) == (is_valid, status)


def test_successor_is_the_last_one_also_in_a_circle():
    last = make("D", labels={"de": "Letzter"})
    third = make("C", replaced_by=last)
    make("A", replaced_by=make("B", replaced_by=third))
    one, other = make("X"), make("Y")
    # Which the rules refuse, but a restored dump may have.
    Item.objects.filter(pk=one).update(replaced_by=other)
    Item.objects.filter(pk=other).update(replaced_by=one)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        a, c, d, x = look_up("codes", ["A", "C", "D", "X"], day=DAY, language="de")
    successor = {"id": last, "code": "D", "label": "Letzter"}
    assert a.result["successor"] == c.result["successor"] == successor
    assert d.result["successor"] is None
    assert x.result["successor"]["code"] == "Y"
    assert {*a.tags} == {f"item:codes.{code}" for code in "ABCD"}
    assert len(queries) == 2  # the level of B and Y; all else was asked for


def test_thousand_codes_take_one_query(django_assert_num_queries):
    make_items(300)
    with django_assert_num_queries(1):
        results = found(*(f"item-{n:05}" for n in range(300)), key="general")
    assert all(results)


def test_unknown_collection_is_an_error():
    with pytest.raises(lookup.CollectionNotFound):
        found("A", key="none")
    make("A")
    assert found("A", "none")[1] is None
    for to in ("codes", "others"):
        translate("codes", ["A"], to=to)
    with pytest.raises(lookup.CollectionNotFound):
        translate("codes", ["A"], to="none")


def test_day_lasts_until_midnight(monkeypatch):
    almost = datetime(2026, 12, 31, 23, 59, 57, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return almost

    monkeypatch.setattr(lookup, "datetime", Clock)
    assert Day.today() == Day(date(2026, 12, 31), 3.0)


# --- translation


def mappings(code: str, key: str = "codes", to: str = "others") -> Any:
    (one,) = translate(key, [code], to=to)
    return one.result and [
        (m["relation"], m["code"], m["collection"]) for m in one.result["mappings"]
    ]


def test_translation_follows_links_in_both_directions():
    near = make("A", collection="others")
    broad = make("B", collection="others", name="Broad")
    here = make("A", links=[
        {"relation": "exactMatch", "target": near},
        {"relation": "broadMatch", "target": broad},
    ])  # fmt: skip
    make("C", collection="others", links=[{"relation": "broadMatch", "target": here}])
    make("D", links=[{"relation": "closeMatch", "target": here}])
    assert mappings("A") == [
        ("exactMatch", "A", "others"),
        ("broadMatch", "B", "others"),
        ("narrowMatch", "C", "others"),
    ]
    assert mappings("B", "others", "codes") == [("narrowMatch", "A", "codes")]
    assert mappings("C", "others", "codes") == [("broadMatch", "A", "codes")]
    assert mappings("A", to="codes") == [("closeMatch", "D", "codes")]
    assert (mappings("D"), mappings("none")) == ([], None)
    (one,) = translate("codes", ["A"], to="others")
    assert one.result["mappings"][1] == {
        "relation": "broadMatch", "id": broad, "code": "B", "collection": "others",
        "label": "Broad",
    }  # fmt: skip


def test_translation_takes_one_query_for_each_direction(django_assert_num_queries):
    others = [make(f"{n}", collection="others") for n in range(5)]
    for n, other in enumerate(others):
        make(f"{n}", links=[{"relation": "exactMatch", "target": other}])
    with django_assert_num_queries(4):  # and for the items, and the collections
        results = translate("codes", [f"{n}" for n in range(5)], to="others")
    assert [one.result["mappings"][0]["code"] for one in results] == list("01234")


# --- lookups agree with lists

CODES = some.text("aÅł/& 0", min_size=1, max_size=3).map(str.strip).filter(bool)
DATES = some.none() | some.dates(DAY - timedelta(3), DAY + timedelta(3))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.dictionaries(
        CODES,
        some.tuples(DATES, DATES, some.sampled_from(rules.STATUSES)).filter(
            lambda one: not (one[0] and one[1] and one[0] > one[1])
        ),
        max_size=8,
    ),
    some.lists(CODES, min_size=1),
)
def test_lookups_agree_with_lists(items, asked):
    Item.objects.all().delete()
    for code, (start, end, status) in items.items():
        make(code, valid_from=start, valid_to=end, status=status)

    def listed(**query) -> dict[str, Any]:
        query = {"collection": "codes", "page_size": 100, "code": asked} | query
        rows = APIClient().get("/api/v1/items", query).json()["results"]
        return {one["code"]: one for one in rows}

    known, valid = listed(), listed(valid_on="2026-11-30")
    for code, result in zip(asked, found(*asked), strict=True):
        one = known.get(code)
        assert (result is None) == (one is None)
        if result and one:
            assert (result["id"], result["label"]) == (one["id"], one["name"])
            assert result["status"] == one["status"]
            is_in_use = one["status"] in ("active", "deprecated")
            start = one["valid_from"] or ""
            end = one["valid_to"] or ("9" if is_in_use else "")
            is_valid = start <= "2026-11-30" <= end and one["status"] != "draft"
            assert result["valid"] == is_valid == (code in valid)


# --- REST


@pytest.fixture
def get(anonymous_api: APIClient) -> Callable[..., Any]:
    return lambda path, **query: anonymous_api.get(f"{URL}/{path}", query)


@pytest.fixture
def post(anonymous_api: APIClient) -> Callable[..., Any]:
    return lambda path, body, **more: anonymous_api.post(f"{URL}/{path}", body, **more)


def test_rest_looks_one_code_up_and_many(get, post):
    make("R&D/1", labels={"de": "Forschung"}, valid_to="2020-12-31")
    one = get("lookup", code="R&D/1", valid_on="2020-12-31", language="DE-at")
    assert (one.status_code, one.json()["label"], one.json()["valid"]) == (
        200, "Forschung", True,
    )  # fmt: skip
    assert "s-maxage=10, stale-while-revalidate=60" in one["Cache-Control"]
    many = post(
        "lookup",
        {"codes": ["R&D/1", "?"], "valid_on": "2020-12-31", "language": "de"},
    )
    assert many.json() == {"results": [one.json(), {"code": "?", "found": False}]}
    assert get("lookup", code="R&D/1").json()["valid"] is False
    assert post("lookup", {"codes": ["R&D/1"], "language": None}).status_code == 200


def test_rest_translates_one_code_and_many(get, post):
    other = make("B", collection="others")
    make("A", links=[{"relation": "exactMatch", "target": other}])
    one = get("translate", code="A", to="others")
    assert [m["id"] for m in one.json()["mappings"]] == [other]
    many = post("translate", {"codes": ["A", "?"], "to": "others"})
    assert many.json() == {"results": [one.json(), {"code": "?", "found": False}]}


@pytest.mark.parametrize(
    ("path", "query", "status", "code", "field"),
    [
        ("lookup", {"code": "none"}, 404, "code_unknown", None),
        ("translate", {"code": "none", "to": "codes"}, 404, "code_unknown", None),
        ("translate", {"code": "A", "to": "none"}, 404, "collection_not_found", None),
        ("lookup", {}, 400, "invalid", "code"),
        ("lookup", {"code": ["A", "B"]}, 400, "invalid", "code"),
        ("lookup", {"code": "A", "valid_on": "May"}, 400, "invalid", "valid_on"),
        ("lookup", {"code": "A", "language": "?"}, 400, "invalid", "language"),
        ("lookup", {"code": "A", "to": "B"}, 400, "unknown_parameter", "to"),
        ("translate", {"code": "A"}, 400, "invalid", "to"),
        ("translate", {"code": "A", "to": "nul\0"}, 400, "invalid", "to"),
    ],
)
def test_get_names_what_is_wrong(get, path, query, status, code, field):
    answer = get(path, **query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert field is None or [*answer.json()["errors"]] == [field]


def test_lookup_in_an_unknown_collection_is_404(anonymous_api):
    answer = anonymous_api.get("/api/v1/collections/none/lookup", {"code": "A"})
    assert (answer.status_code, answer.json()["code"]) == (404, "collection_not_found")
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "invalid", "codes"),
        ([], "invalid", None),
        ({"codes": []}, "invalid", "codes"),
        ({"codes": ["A"] * 1_001}, "invalid", "codes"),
        ({"codes": ["A", 7]}, "invalid", "codes"),
        ({"codes": ["A"], "valid_on": 7}, "invalid", "valid_on"),
        ({"codes": ["A"], "language": ["de"]}, "invalid", "language"),
        ({"codes": ["A"], "lang": "de"}, "unknown_field", "lang"),
    ],
)
def test_post_names_what_is_wrong(post, body, code, field):
    answer = post("lookup", body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert field is None or [*answer.json()["errors"]] == [field]


def test_lenient_post_ignores_unknown_members(post):
    body = {"codes": ["A"], "lang": "de"}
    answer = post("lookup", body, headers={"Prefer": "handling=lenient"})
    assert (answer.status_code, answer["Preference-Applied"]) == (
        200, "handling=lenient",
    )  # fmt: skip


def test_lookup_of_a_private_site_is_for_authenticated_clients(
    post, anonymous_api, reader, settings
):
    settings.PUBLIC_READ = False
    assert post("lookup", {"codes": ["A"]}).status_code == 401
    anonymous_api.force_authenticate(reader)  # who may not write
    answer = post("lookup", {"codes": ["A"]})
    assert (answer.status_code, "public" in answer["Cache-Control"]) == (200, False)


def test_answer_about_today_is_not_shared_beyond_midnight(get, monkeypatch):
    make("A")
    today = SimpleNamespace(today=lambda: Day(DAY, 4.5))
    monkeypatch.setattr("items.collections.lookup_api.Day.today", today.today)
    assert (
        "s-maxage=4, stale-while-revalidate=0,"
        in get("lookup", code="A")["Cache-Control"]
    )
