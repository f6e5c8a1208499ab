"""What is published next: in the order of the feed, and each item's changes in theirs.

Two transactions that change one item one after the other may come into the feed the
other way round (`ItemChangeQuerySet.settled`). Ids of changes are given while the item
is locked, so of one item they are in order.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from items.changes import feed
from items.changes.feed import Position
from items.models import ItemChange


@dataclass(frozen=True)
class Batch:
    """Changes to publish, the place after them, and which of them lie behind it."""

    changes: Sequence[ItemChange]
    end: Position
    ahead: frozenset[int]


def next_batch(position: Position, ahead: Collection[int], size: int) -> Batch | None:
    """Return what follows `position`; None if there is nothing."""
    rows = feed.changes_after(position, size)
    if not rows:
        return None
    end = feed.position_of(rows[-1])
    return arrange(rows, _earlier_ones_behind(rows, end), end, frozenset(ahead))


def arrange(
    rows: Sequence[ItemChange],
    behind: Iterable[ItemChange],
    end: Position,
    ahead: frozenset[int],
) -> Batch:
    """Put the earlier changes of an item before its later ones."""
    waiting: dict[str, deque[ItemChange]] = defaultdict(deque)
    for change in sorted({*rows, *behind}, key=lambda change: change.pk):
        if change.pk not in ahead:
            waiting[change.item_id].append(change)
    changes: list[ItemChange] = []
    for row in rows:
        same = waiting[row.item_id]
        while same and same[0].pk <= row.pk:
            changes.append(same.popleft())
    passed = {row.pk for row in rows}
    published = ahead | {change.pk for change in changes}
    return Batch(changes, end, published - passed)


def _earlier_ones_behind(rows: Sequence[ItemChange], end: Position) -> list[ItemChange]:
    """Return changes behind `end` that were made before some of `rows`.

    They are final although they are not settled: what was made after them is.
    """
    items = {row.item_id for row in rows}
    latest = max(row.pk for row in rows)
    rows_behind = ItemChange.objects.filter(feed.behind(end))
    return list(rows_behind.filter(item_id__in=items, pk__lt=latest))
