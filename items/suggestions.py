"""Names that are close to a search which finds nothing.

Candidates are a bounded number of items that an index finds: those before and after the
text in the order of names, and some that have a half of each of its words, as one half
of a misspelled word is often right. Of their names the most similar ones are taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean

from items.list_query import ListQuery
from items.models import Item
from items.search import TRIGRAM, search_words, sort_key, with_a_part_of_each

SUGGESTED_MAX = 5
NEIGHBOURS = 50
CANDIDATES_MAX = 300
# Of one item: its name, labels and aliases.
NAMES_MAX = 20
# Of 100, which a name has that has every word of the text.
SIMILARITY_MIN = 65
# Names that are so much less similar than the closest one are none.
SPREAD = 12


def suggest(query: ListQuery) -> list[str]:
    """Return the names, of items within the filters, that are closest to the search."""
    words = search_words(query.search).split()
    if not words:
        return []
    candidates = dict(_candidates(query, words))
    if query.is_filtered:
        within = replace(query, search="").items().order_by()
        kept = within.filter(pk__in=list(candidates)).values_list("pk", flat=True)
        candidates = {pk: candidates[pk] for pk in kept}
    names = dict.fromkeys(chain.from_iterable(candidates.values()))
    similarities = {name: _similarity(words, name) for name in names}
    closest = sorted(names, key=lambda name: (-similarities[name], name))
    least = max(SIMILARITY_MIN, max(similarities.values(), default=0) - SPREAD)
    return [name for name in closest if similarities[name] >= least][:SUGGESTED_MAX]


def _candidates(
    query: ListQuery, words: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield ids of items, with their names."""
    rows = Item.objects.all()
    keys = query.filters["collection"]
    if len(keys) == 1:  # its items have an index by name
        rows = rows.filter(collection=keys[0])
    key = sort_key(query.search)
    after = rows.filter(sort_key__gte=key).order_by("sort_key", "pk")[:NEIGHBOURS]
    before = rows.filter(sort_key__lt=key).order_by("-sort_key", "-pk")[:NEIGHBOURS]
    some = [after, before]
    if halves := [parts for word in words if (parts := _halves(word))]:
        some.append(with_a_part_of_each(rows, halves, CANDIDATES_MAX))
    for found in some:
        for pk, *names in found.values_list("pk", "name", "labels", "aliases"):
            yield pk, _names(*names)


def _halves(word: str) -> list[str]:
    """Return those halves of a word that are long enough for the index."""
    middle = len(word) // 2
    halves = [f" {word[:middle]}", word[middle:]]
    return [half for half in halves if len(half) >= TRIGRAM]


def _names(name: str, labels: dict[str, str], aliases: list[str]) -> list[str]:
    return [name, *labels.values(), *aliases][:NAMES_MAX]


def _similarity(words: Sequence[str], name: str) -> float:
    """Return how much the name has of all the words, and how little else."""
    from rapidfuzz.fuzz import ratio  # slow to import, and few requests need it

    others = search_words(name).split()
    if not others:
        return 0
    found = fmean(max(ratio(word, other) for other in others) for word in words)
    # Of names that have them alike, the one with fewest other words.
    return found + ratio(" ".join(words), " ".join(others)) / 1_000
