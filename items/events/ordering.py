"""Order of publishing: that of the feed, but per item that of its versions.

Two transactions that change one item one after the other may enter the feed in
reverse (`ItemChangeQuerySet.settled`). Ids of changes are assigned while the item is
locked, so that the ids of one item are in order.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from items.changes import feed
from items.changes.feed import Position
from items.models import ItemChange
from resilient_site.models import Epoch


@dataclass(frozen=True)
class Batch:
    """Changes to publish, the position after them, and which lie ahead of it."""

    epoch: str
    changes: Sequence[ItemChange]
    end: Position
    ahead: frozenset[int]


def next_batch(position: Position, ahead: Collection[int], size: int) -> Batch | None:
    """Return the next batch after `position`; None if there is none.

    The earlier changes of an item come before its later ones.
    """
    epoch = Epoch.current()  # first: see feed.parse_cursor
    rows = feed.changes_after(position, size)
    if not rows:
        return None
    end = feed.position_of(rows[-1])
    # Changes after `end` that were made before some of `rows`. They are final although
    # not settled: later changes of their items are.
    later = ItemChange.objects.filter(
        feed.is_after(end),
        item_id__in={row.item_id for row in rows},
        pk__lt=max(row.pk for row in rows),
    )
    waiting: dict[str, deque[ItemChange]] = defaultdict(deque)
    for change in sorted([*rows, *later], key=lambda change: change.pk):
        if change.pk not in ahead:
            waiting[change.item_id].append(change)
    changes: list[ItemChange] = []
    for row in rows:
        same = waiting[row.item_id]
        while same and same[0].pk <= row.pk:
            changes.append(same.popleft())
    published = {*ahead, *(change.pk for change in changes)}
    return Batch(epoch, changes, end, frozenset(published - {row.pk for row in rows}))
