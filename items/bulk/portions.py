"""Ids of many items in portions, each of which is changed in one transaction."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import batched

from django.db import connection

from items.integrity import POINTERS
from items.models import ItemQuerySet

PORTION = 5_000
# No other writer is let in meanwhile.
SQLITE_PORTION = 500
# Of items that refer to each other: what are more is divided.
TOGETHER_MAX = 20_000


def portions(items: ItemQuerySet, *, together: bool = False) -> Iterator[list[str]]:
    """Yield the ids of the items, each once, in the order of the ids.

    With `together`, those that refer to each other as parent or successor follow at the
    end, in the same portion: they can only leave their collection at once. Those alone
    are in memory.
    """
    size = PORTION if connection.vendor != "sqlite" else SQLITE_PORTION
    items = items.prefetch_related(None).order_by()
    families = _Families(items) if together else None
    ids = items.order_by("pk").values_list("pk", flat=True).iterator(size)
    alone = (pk for pk in ids if not families or pk not in families)
    yield from map(list, batched(alone, size))
    if families:
        yield from _packed(families.found(items), size)


def _packed(families: Iterable[list[str]], size: int) -> Iterator[list[str]]:
    portion: list[str] = []
    for family in families:
        if portion and len(portion) + len(family) > size:
            yield portion
            portion = []
        portion += family
        while len(portion) > TOGETHER_MAX:
            yield portion[:TOGETHER_MAX]
            del portion[:TOGETHER_MAX]
    if portion:
        yield portion


class _Families:
    """Items that refer to each other: disjoint sets of ids, each with a root."""

    def __init__(self, items: ItemQuerySet) -> None:
        self._above: dict[str, str] = {}
        linked = items.exclude(**dict.fromkeys(POINTERS))
        columns = [f"{name}_id" for name in POINTERS]
        for pk, *targets in linked.values_list("pk", *columns).iterator():
            for target in filter(None, targets):
                self._above[self._root(target)] = self._root(pk)

    def __contains__(self, pk: str) -> bool:
        return pk in self._above

    def found(self, items: ItemQuerySet) -> Iterator[list[str]]:
        """Yield the families, of those that are among the items."""
        families: dict[str, list[str]] = defaultdict(list)
        for pk in items.order_by("pk").values_list("pk", flat=True).iterator():
            if pk in self:
                families[self._root(pk)].append(pk)
        return iter(families.values())

    def _root(self, pk: str) -> str:
        above = self._above.setdefault(pk, pk)
        while above != pk:
            # Each that is passed comes closer to its root.
            self._above[pk] = self._above[above]
            pk, above = above, self._above[above]
        return pk
