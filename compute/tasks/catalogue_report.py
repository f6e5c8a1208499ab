from typing import Any

from rest_framework import serializers

from compute.registry import task
from compute.task_context import TaskContext
from compute.tasks import TagField
from compute.tasks.algorithms import statistics
from compute.tasks.algorithms.charts import WIDTH, Chart, draw
from compute.tasks.algorithms.statistics import Catalogue

# The progress before and after the words are counted.
WORDS_START, WORDS_END = 0.3, 0.95

NO_ITEMS = "There are no items."
WHEN = {"day": "on", "week": "in the week from", "month": "in", "year": "in"}


class Params(serializers.Serializer[Any]):
    tag = TagField()


@task(params=Params, title="Report on the catalogue", memory_mb=256)
def catalogue_report(context: TaskContext, *, tag: str) -> Any:
    """Report on the catalogue: tags, growth, lengths, words and edits.

    With charts to read on the page, to print and to download.
    """
    report = _numbers(context, Catalogue.tagged(tag) if tag else Catalogue.whole())
    context.progress(WORDS_END, "Drawing")
    report["charts"] = {}
    for name, chart in _charts(report).items():
        with context.file(f"{name}.svg", "image/svg+xml") as file:
            file.write(draw(chart))
        size = {"width": WIDTH, "height": chart.height}
        report["charts"][name] = {"summary": chart.summary} | size
    return report


def _numbers(context: TaskContext, catalogue: Catalogue) -> dict[str, Any]:
    context.progress(0, "Counting items")
    report: dict[str, Any] = {
        "items": catalogue.items.count(),
        "without_tags": catalogue.without_tags(),
    }
    context.progress(WORDS_START * 0.2, "Counting tags")
    report["tags"] = statistics.tags(catalogue)
    context.progress(WORDS_START * 0.4, "Counting changes")
    report["changes"] = catalogue.changes.count()
    report["most_edited"] = statistics.most_edited(catalogue)
    context.progress(WORDS_START * 0.6, "Counting by time")
    report["growth"] = statistics.growth(catalogue)
    context.progress(WORDS_START * 0.8, "Measuring lengths")
    names, descriptions = statistics.NAME_GROUPS, statistics.DESCRIPTION_GROUPS
    report["lengths"] = {
        "name": statistics.lengths(catalogue, "name", names),
        "description": statistics.lengths(catalogue, "description", descriptions),
    }
    report["without_description"] = report["lengths"]["description"]["groups"][0][
        "items"
    ]
    report["words"] = _words(context, catalogue, report["items"])
    return report


def _words(context: TaskContext, catalogue: Catalogue, total: int) -> dict[str, Any]:
    read = 0

    def report(more: int) -> None:
        nonlocal read
        read += more
        done = read / max(total, read)
        context.progress(
            WORDS_START + (WORDS_END - WORDS_START) * done,
            f"Counting words: {read:,} of {total:,} items",
        )

    return statistics.frequent_words(catalogue, report)


# --- the charts


def _charts(report: dict[str, Any]) -> dict[str, Chart]:
    return {
        "tags": _tags_chart(report["tags"]),
        "growth": _growth_chart(report["growth"]),
        "lengths": _lengths_chart(report["lengths"]),
        "words": _words_chart(report["words"]),
    }


def _tags_chart(tags: dict[str, Any]) -> Chart:
    bars = [(row["tag"], row["items"]) for row in tags["most"]]
    summary = "No item has a tag."
    if bars:
        tag, items = bars[0]
        summary = f"The most frequent of {tags['number']:,} tags is “{tag}”: {items:,}."
    return Chart("Items by tag", summary, bars)


def _growth_chart(growth: dict[str, Any]) -> Chart:
    bars = [(period["label"], period["items"]) for period in growth["periods"]]
    summary = NO_ITEMS
    if bars:
        label, items = max(bars, key=lambda bar: bar[1])
        summary = f"Most items were created {WHEN[growth['unit']]} {label}: {items:,}."
    return Chart(f"New items by {growth['unit']}", summary, bars)


def _lengths_chart(lengths: dict[str, Any]) -> Chart:
    title = "Items by length in characters"
    if lengths["name"]["longest"] is None:
        return Chart(title, NO_ITEMS, [])
    bars: list[tuple[str, int | None]] = []
    usual = []
    for heading, field in (("Names", "name"), ("Descriptions", "description")):
        groups = [(row["label"], row["items"]) for row in lengths[field]["groups"]]
        bars += [(heading, None), *groups]
        usual.append(max(groups, key=lambda bar: bar[1])[0])
    names, descriptions = usual
    summary = f"The usual length of names is {names}, of descriptions {descriptions}."
    return Chart(title, summary, bars)


def _words_chart(words: dict[str, Any]) -> Chart:
    bars = [(row["word"], row["items"]) for row in words["most"]]
    summary = "There are no words."
    if bars:
        word, items = bars[0]
        summary = f"The most frequent word is “{word}”, in {items:,} items."
    return Chart("Items by word", summary, bars)
