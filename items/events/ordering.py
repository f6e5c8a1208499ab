"""Order of publishing: that of the feed, but per item that of its versions.

Two transactions that change one item one after the other may enter the feed in
reverse (`ItemChangeQuerySet.settled`). Ids of changes are assigned while the item is
locked, so that the ids of one item are in order.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from items.changes import feed
from items.changes.feed import Position
from items.models import ItemChange


@dataclass(frozen=True)
class Batch:
    """Changes to publish, the position after them, and which lie ahead of it."""

    changes: Sequence[ItemChange]
    end: Position
    ahead: frozenset[int]


def next_batch(position: Position, ahead: Collection[int], size: int) -> Batch | None:
    """Return the next batch after `position`; None if there is none."""
    rows = feed.changes_after(position, size)
    if not rows:
        return None
    end = feed.position_of(rows[-1])
    return arrange(rows, _earlier_changes_after(rows, end), end, frozenset(ahead))


def arrange(
    rows: Sequence[ItemChange],
    later: Iterable[ItemChange],
    end: Position,
    ahead: frozenset[int],
) -> Batch:
    """Put the earlier changes of an item before its later ones."""
    waiting: dict[str, deque[ItemChange]] = defaultdict(deque)
    for change in sorted({*rows, *later}, key=lambda change: change.pk):
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


def _earlier_changes_after(
    rows: Sequence[ItemChange], end: Position
) -> list[ItemChange]:
    """Return changes after `end` that were made before some of `rows`.

    They are final although not settled: later changes of their items are.
    """
    items = {row.item_id for row in rows}
    latest = max(row.pk for row in rows)
    later = ItemChange.objects.filter(feed.is_after(end))
    return list(later.filter(item_id__in=items, pk__lt=latest))
