from typing import Any

from rest_framework import serializers

from compute.registry import task
from compute.task_context import TaskContext
from compute.tasks import TagField
from compute.tasks.algorithms import statistics
from compute.tasks.algorithms.statistics import Catalogue

# The progress before the words are counted.
WORDS_START = 0.3


class Params(serializers.Serializer[Any]):
    tag = TagField()


@task(params=Params, title="Report on the catalogue", memory_mb=256)
def catalogue_report(context: TaskContext, *, tag: str) -> Any:
    """Report on the catalogue: tags, growth, lengths, words and edits."""
    catalogue = Catalogue.tagged(tag) if tag else Catalogue.whole()
    context.progress(0, "Counting items, tags and changes")
    total, read = catalogue.items.count(), 0
    lengths = {
        "name": statistics.lengths(catalogue, "name", statistics.NAME_GROUPS),
        "description": statistics.lengths(
            catalogue, "description", statistics.DESCRIPTION_GROUPS
        ),
    }
    report = {
        "items": total,
        "without_tags": catalogue.without_tags(),
        "without_description": lengths["description"]["groups"][0]["items"],
        "tags": statistics.tags(catalogue),
        "changes": catalogue.changes.count(),
        "most_edited": statistics.most_edited(catalogue),
        "growth": statistics.growth(catalogue),
        "lengths": lengths,
    }

    def on_read(more: int) -> None:
        nonlocal read
        read += more
        context.progress(
            WORDS_START + (1 - WORDS_START) * read / max(total, read),
            f"Counting words: {read:,} of {total:,} items",
        )

    return report | {"words": statistics.frequent_words(catalogue, on_read)}
