"""The report on the catalogue: its numbers, its charts, and its page."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
from django.contrib.auth.models import AnonymousUser

from compute import files
from compute.queue import Claim
from compute.registry import get_task
from compute.task_context import TaskContext
from compute.tasks.algorithms import charts, row_iterator, statistics
from compute.tasks.algorithms.charts import Chart
from compute.tasks.algorithms.statistics import Words
from items import catalogue
from items.models import Item
from tests.compute.factories import do, make_job
from tests.factories import TESTER, make_item, make_items

pytestmark = pytest.mark.django_db

SVG = "{http://www.w3.org/2000/svg}"
CHARTS = ("growth.svg", "lengths.svg", "tags.svg", "words.svg")


class Report:
    """One report that was requested, made and stored."""

    def __init__(self, owner, tag: str = "") -> None:
        self.job = do("catalogue_report", owner, tag=tag)
        self.result: dict[str, Any] = self.job.result

    def picture(self, name: str) -> bytes:
        return b"".join(files.read(self.job.result_files().get(name=name)))


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


def texts(svg: bytes) -> list[str]:
    """What is to be read in the picture, from top to bottom."""
    nodes = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return [node.text or "" for node in nodes]


# --- the numbers


def test_report_has_totals_lengths_and_the_most_edited_items(reader):
    few_items()
    result = Report(reader).result
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
    assert Report(reader).result["without_description"] == 1


def test_report_counts_tags_most_frequent_first(reader, monkeypatch):
    few_items()
    most = [{"tag": "metal", "items": 3}, {"tag": "strong", "items": 1}]
    assert Report(reader).result["tags"] == {"number": 2, "others": 0, "most": most}
    monkeypatch.setattr(statistics, "TAGS_SHOWN", 1)
    most = most[:1]
    assert Report(reader).result["tags"] == {"number": 2, "others": 1, "most": most}


def test_report_counts_a_word_once_per_item(reader, monkeypatch):
    # A page is shorter than the catalogue, and ends with it once.
    monkeypatch.setattr(row_iterator, "CHUNK_ROWS", 2)
    few_items()
    words = Report(reader).result["words"]
    assert words["missed"] == 0
    assert [(row["word"], row["items"]) for row in words["most"]] == [
        ("bolt", 2), ("bolts", 1), ("brass", 1), ("cafe", 1), ("steel", 1),
        ("third", 1), ("with", 1),
    ]  # fmt: skip


def test_report_on_a_tag_has_its_items_only(reader):
    few_items()
    result = Report(reader, "strong").result
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
    growth = Report(reader).result["growth"]
    periods = growth["periods"]
    assert growth["unit"] == unit
    assert [period["label"] for period in periods[:3]] == labels
    assert len(periods) <= statistics.PERIODS_MAX
    # None falls between two periods, and each is where its date is.
    assert sum(period["items"] for period in periods) == len(days)
    assert [period["total"] for period in periods][-1] == len(days)
    assert periods[0]["items"] >= 1
    assert periods[-1]["items"] >= 1
    starts = [date.fromisoformat(period["start"]) for period in periods]
    assert starts == sorted(set(starts))
    assert starts[-1] <= (begin + timedelta(days=days[-1])).date()


@pytest.mark.once
def test_word_counter_is_bounded_and_states_its_error():
    words, limit = Words(limit=100), 100
    for number in range(1_000):
        words.add(["often", f"w{number}", f"v{number}"])
        if number % 3 == 0:
            words.add(["third"])
        assert len(words._counted) <= limit
    assert words.most(1) == [("often", 1_000)]
    third = dict(words.most(limit)).get("third", 0)
    assert 334 - words.missed <= third <= 334
    assert words.missed > 0


@pytest.mark.once
def test_progress_of_a_report_rises(reader, monkeypatch):
    monkeypatch.setattr("compute.task_context.REPORT_INTERVAL_S", 0)
    monkeypatch.setattr(statistics, "ROWS_BATCH", 10)
    make_items(50)
    reported = []
    claim = Claim.of(make_job("running", task="catalogue_report", owner=reader))
    context = TaskContext(claim, lambda fraction, message: reported.append(fraction))
    get_task("catalogue_report").main(context, tag="")
    assert reported == sorted(reported)
    assert len(set(reported)) >= 10
    assert reported[0] == 0
    assert reported[-1] > 0.9


# --- the charts


@pytest.mark.once
def test_charts_have_no_scripts_and_no_references(reader):
    few_items()
    report = Report(reader)
    names = report.job.result_files().order_by("name").values_list("name", flat=True)
    assert (*names,) == CHARTS
    for name in CHARTS:
        svg = report.picture(name)
        root = ElementTree.fromstring(svg)
        tags = {node.tag.removeprefix(SVG) for node in root.iter()}
        assert tags <= {"svg", "title", "desc", "style", "g", "rect", "text"}
        assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
        assert all(child.text for child in root[:2])
        # The name of the language is the only address.
        rest = svg.decode().replace('xmlns="http://www.w3.org/2000/svg"', "", 1)
        for trace in ("http", "//", "<script", "href", "url(", "import", "<!--"):
            assert trace not in rest.lower()
        assert "prefers-color-scheme: dark" in rest
        size = report.result["charts"][name.removesuffix(".svg")]
        assert root.get("width") == str(size["width"])
        assert root.get("height") == str(size["height"])
    assert sorted(texts(report.picture("tags.svg"))) == ["1", "3", "metal", "strong"]
    lengths = texts(report.picture("lengths.svg"))
    assert {"Names", "Descriptions", "150–200", "none", "5,000–10,000"} <= {*lengths}


@pytest.mark.once
def test_chart_has_the_first_bar_on_top():
    svg = charts.draw(Chart("T", "S", [("one", 9_999_999), ("two", 5), ("three", 0)]))
    assert [text for text in texts(svg) if text.isalpha()] == ["one", "two", "three"]
    bars = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    widths = [float(node.get("width", 0)) for node in bars]
    assert widths[0] > 100 > widths[1] > widths[2] == 0
    assert "9,999,999" in texts(svg)


@pytest.mark.once
@pytest.mark.parametrize(
    "label",
    ["a" * 50, "w" * 50, "東京都" * 10, "prefix-of-many-tags-" + "x" * 20 + "-one"],
    ids=["long", "wide", "full-width", "end"],
)
def test_long_label_is_shortened_in_the_middle(label):
    assert charts.shortened("metal") == "metal"
    short = charts.shortened(label)
    first, _, last = short.partition("…")
    assert label.startswith(first)
    assert label.endswith(last)
    assert len(last) >= 3
    assert charts._letters(short) <= charts.LABEL_MAX + 1
    svg = charts.draw(Chart("T", "S", [(label, 1_000_000)]))
    (row,) = ElementTree.fromstring(svg).iter(f"{SVG}g")
    left = float(re.findall(r"\d+", row.get("transform", ""))[0])
    assert left >= charts._letters(short) * charts.LETTER
    assert left < charts.WIDTH / 2


@pytest.mark.once
def test_report_on_an_empty_catalogue(reader):
    report = Report(reader)
    result = report.result
    assert (result["items"], result["tags"]["most"]) == (0, [])
    assert (result["words"]["most"], result["growth"]["periods"]) == ([], [])
    for name in ("tags.svg", "growth.svg"):
        assert texts(report.picture(name)) == ["There is nothing to show."]


@pytest.mark.once
def test_report_size_is_bounded(reader):
    for number in range(22):
        tags = [f"{number:02}-{n:02}-" + "t" * 40 for n in range(30)]
        make_item(id=f"{number}" + "i" * 90, name="“" * 200, tags=tags)
        catalogue.update_item(f"{number}" + "i" * 90, {"tags": []}, actor=TESTER)
    report = Report(reader)
    assert len(orjson.dumps(report.result)) < 100_000
    assert report.result["items"] == 22


@pytest.mark.once
def test_report_requires_authentication_and_a_valid_tag(reader):
    task = get_task("catalogue_report")
    assert task.may_run(reader)
    assert not task.may_run(AnonymousUser())
    params = task.params
    for sent, tag in (({}, ""), ({"tag": ""}, ""), ({"tag": " Metal "}, "metal")):
        serializer = params(data=sent)
        assert serializer.is_valid()
        assert serializer.validated_data == {"tag": tag}
    serializer = params(data={"tag": "two words"})
    assert not serializer.is_valid()
    assert set(serializer.errors) == {"tag"}
