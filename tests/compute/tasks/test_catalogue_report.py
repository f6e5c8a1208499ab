"""The report on the catalogue: its numbers."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from compute.tasks.algorithms import statistics
from items import catalogue
from items.imports import exporting
from items.models import Item
from tests.compute.factories import do
from tests.factories import TESTER, make_item, make_items

pytestmark = pytest.mark.django_db


def report(owner: User, tag: str = "") -> dict[str, Any]:
    return do("catalogue_report", owner, tag=tag).result


def few_items() -> None:
    make_item(id="1", name="Brass bolt", description="Brass, brass!", tags=["metal"])
    make_item(id="2", name="Steel bolt", description="", tags=["metal", "strong"])
    make_item(id="3", name="Café", description="With 2026 bolts", tags=[])
    make_item(id="4", name="x" * 200, description="y" * 10_000, tags=["metal"])
    for text in ("Second", "Third"):
        catalogue.update_item("2", {"description": text}, actor=TESTER)
    catalogue.update_item("1", {"description": "Brass nut"}, actor=TESTER)
    make_item(id="5", name="Gone")
    catalogue.delete_item("5", actor=TESTER)


def counted(groups: list[dict[str, Any]]) -> dict[str, int]:
    return {row["label"]: row["items"] for row in groups if row["items"]}


def test_report_has_totals_lengths_and_the_most_edited_items(reader):
    few_items()
    result = report(reader)
    assert result["most_edited"] == [
        {"id": "2", "name": "Steel bolt", "version": 3},
        {"id": "1", "name": "Brass bolt", "version": 2},
    ]
    lengths = result["lengths"]
    assert counted(lengths["name"]["groups"]) == {"1–9": 1, "10–19": 2, "150–200": 1}
    described = counted(lengths["description"]["groups"])
    assert described == {"1–49": 3, "5,000–10,000": 1}
    assert (lengths["name"]["median"], lengths["name"]["longest"]) == (10, 200)
    assert lengths["description"]["longest"] == 10_000
    totals = ("items", "changes", "without_description", "without_tags")
    # Eight creations and edits of what is there, two changes of what is gone.
    assert [result[name] for name in totals] == [4, 9, 0, 1]
    Item.objects.filter(pk="3").update(description="")
    assert report(reader)["without_description"] == 1


def test_report_counts_tags_most_frequent_first(reader, monkeypatch):
    few_items()
    most = [{"tag": "metal", "items": 3}, {"tag": "strong", "items": 1}]
    assert report(reader)["tags"] == {"number": 2, "others": 0, "most": most}
    monkeypatch.setattr(statistics, "TAGS_SHOWN", 1)
    most = most[:1]
    assert report(reader)["tags"] == {"number": 2, "others": 1, "most": most}


def test_report_counts_a_word_once_per_item(reader, monkeypatch):
    # A page is shorter than the catalogue, and ends with it once.
    monkeypatch.setattr(exporting, "CHUNK_ROWS", 2)
    few_items()
    words = report(reader)["words"]
    assert words["missed"] == 0
    assert [(row["word"], row["items"]) for row in words["most"]] == [
        ("bolt", 2), ("bolts", 1), ("brass", 1), ("cafe", 1), ("steel", 1),
        ("third", 1), ("with", 1),
    ]  # fmt: skip


def test_report_on_a_tag_has_its_items_only(reader):
    few_items()
    result = report(reader, "strong")
    assert (result["items"], result["changes"], result["without_tags"]) == (1, 3, 0)
    assert [row["tag"] for row in result["tags"]["most"]] == ["metal", "strong"]
    assert [row["word"] for row in result["words"]["most"]] == [
        "bolt", "steel", "third",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("days", "unit", "labels"),
    [
        ((0,), "day", ["28 Feb 2024"]),
        ((0, 2), "day", ["28 Feb 2024", "29 Feb 2024", "1 Mar 2024"]),
        ((0, 30, 161), "week", ["26 Feb 2024", "4 Mar 2024", "11 Mar 2024"]),
        ((0, 310, 366), "month", ["Feb 2024", "Mar 2024", "Apr 2024"]),
        ((0, 5000, 5100), "year", ["2024", "2025", "2026"]),
    ],
    ids=["one", "days", "weeks", "months", "years"],
)
def test_growth_uses_the_shortest_unit_with_few_periods(reader, days, unit, labels):
    begin = datetime(2024, 2, 28, 23, 59, 59, tzinfo=UTC)
    for item, day in zip(make_items(len(days)), days, strict=True):
        at = begin + timedelta(days=day)
        Item.objects.filter(pk=item.pk).update(created_at=at)
    growth = report(reader)["growth"]
    periods = growth["periods"]
    assert growth["unit"] == unit
    assert [period["label"] for period in periods[:3]] == labels
    assert len(periods) <= statistics.PERIODS_MAX
    # None falls between two periods, and each is where its date is.
    assert sum(period["items"] for period in periods) == len(days)
    assert [period["total"] for period in periods][-1] == len(days)
    assert periods[0]["items"] >= 1
    assert periods[-1]["items"] >= 1


@pytest.mark.once
def test_word_counter_is_bounded_and_states_its_error(reader, monkeypatch):
    monkeypatch.setattr(statistics, "WORDS_KEPT", 50)
    monkeypatch.setattr(exporting, "CHUNK_ROWS", 10)
    for number, item in enumerate(make_items(200)):
        third = "third" if number % 3 == 0 else ""
        text = f"often word{number} text{number} {third}"
        Item.objects.filter(pk=item.pk).update(search_text=text)
    words = report(reader)["words"]
    assert words["most"][0] == {"word": "often", "items": 200}
    assert words["missed"] > 0
    counted = {row["word"]: row["items"] for row in words["most"]}
    assert 67 - words["missed"] <= counted.get("third", 0) <= 67


@pytest.mark.once
def test_report_on_an_empty_catalogue(reader):
    result = report(reader)
    assert (result["items"], result["tags"]["most"]) == (0, [])
    assert (result["words"]["most"], result["growth"]["periods"]) == ([], [])
