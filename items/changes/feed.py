"""Change feed: the change log in the order in which it becomes final.

A change appears once no later commit can precede it, so that a reader that remembers
its position misses none and sees none twice. A position holds for one epoch of the
database: a cursor names both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db.models import Case, F, TextField, Value, When
from django.db.models.fields.json import KeyTextTransform
from django.db.models.fields.tuple_lookups import TupleGreaterThan
from django.db.models.functions import Coalesce

from items import fields, rules
from items.field_types import public_id
from items.models import Collection, ItemChange
from resilient_site.api.keyset import Cursor
from resilient_site.errors import Invalid
from resilient_site.models import Epoch

# Transaction and id of a change; what comes after it is greater.
type Position = tuple[int, int]

ORDERING = "transaction"
START: Position = (0, 0)
# Changes that are looked at for those of one collection.
SCANNED_MAX = 10_000
# The collection before and after a change, None without such a state. States of an
# earlier release have none.
PLACES = {
    f"{name}_place": Case(
        When(
            **{f"{name}__isnull": False},
            then=Coalesce(
                KeyTextTransform("collection", name), Value(rules.GENERAL, TextField())
            ),
        )
    )
    for name in ("before", "after")
}
NOW = "now"


class EpochChanged(Invalid):
    code = "epoch_changed"
    detail = (
        "The catalogue was restored from a backup since this position was given out, "
        "so that what you have may differ from it. Start over: note the position "
        "`changes?since=now`, read all items, then the changes from there."
    )


def position_of(change: ItemChange) -> Position:
    return change.transaction, change.pk


def cursor_of(epoch: str, position: Position) -> str:
    return f"{epoch}.{Cursor(ORDERING, False, position).encode()}"


def is_after(position: Position) -> TupleGreaterThan:
    """Return the condition for changes after `position`."""
    return TupleGreaterThan((F("transaction"), F("id")), position)


def changes_after(position: Position, limit: int) -> list[ItemChange]:
    """Return the next final changes."""
    return list(ItemChange.objects.settled().filter(is_after(position))[:limit])


class Read(NamedTuple):
    """Changes, the position after what was read, and whether that is all there is."""

    changes: list[ItemChange]
    position: Position
    is_all: bool


def read(position: Position, limit: int, key: str = "") -> Read:
    """Return the next final changes, with a `key` those of that collection.

    Of one collection SCANNED_MAX changes are looked at, so that there may be none
    although more follow.
    """
    if not key:
        changes = changes_after(position, limit)
        position = position_of(changes[-1]) if changes else position
        return Read(changes, position, len(changes) < limit)
    rows = ItemChange.objects.settled().filter(is_after(position)).annotate(**PLACES)
    scanned = list(rows.values_list("transaction", "pk", *PLACES)[:SCANNED_MAX])
    matching = [row for row in scanned if key in row[2:] or not any(row[2:])]
    matching = matching[:limit]
    is_full = len(matching) == limit
    if scanned:
        position = (matching if is_full else scanned)[-1][:2]
    pks = [pk for _, pk, *_ in matching]
    changes = list(ItemChange.objects.filter(pk__in=pks).order_by("transaction", "pk"))
    return Read(changes, position, not is_full and len(scanned) < SCANNED_MAX)


def keys_of(change: ItemChange) -> frozenset[str]:
    """Return the collections in which its item is, or was before it.

    None of an entry whose contents were removed, which may be about any.
    """
    states = [state for state in (change.before, change.after) if state is not None]
    return frozenset(state.get("collection", rules.GENERAL) for state in states)


def last_changes(limit: int) -> list[ItemChange]:
    """Return the last final changes, the earliest first."""
    return list(ItemChange.objects.settled().reverse()[:limit])[::-1]


def end() -> Position:
    """Return the position of the last final change."""
    last = last_changes(1)
    return position_of(last[0]) if last else START


def parse_cursor(text: str | None, named: str) -> tuple[str, Position]:
    """Return the epoch, and a position: without a cursor the start, for `now` the end.

    Raises Invalid, for the parameter `named`, if it is not a cursor of this feed, and
    EpochChanged if it is one of another epoch.
    """
    # First: what is read from here on is of this epoch, or of a later one. The cursor
    # after it then names an epoch that has ended, and its client starts over.
    epoch = Epoch.current()
    if not text:
        return epoch, START
    if text == NOW:
        return epoch, end()
    # Without an epoch, it was given out before there were any.
    named_epoch, _, rest = text.rpartition(".")
    try:
        transaction, pk = Cursor.decode(rest, ItemChange, ORDERING).values
    except ValueError as error:
        message = "This is not a cursor of this list and ordering."
        raise Invalid(errors={named: [message]}) from error
    position = transaction, pk
    if named_epoch != epoch or not _is_known(position):
        message = "This cursor is from before the catalogue was restored."
        raise EpochChanged(errors={named: [message]})
    return epoch, position


def parse_collection(values: Sequence[str]) -> str:
    """Return the key of a collection, empty for all; raises Invalid if it is none."""
    keys = {*filter(None, values)}
    if len(keys) > 1:
        message = "The changes are those of one collection, or of all."
        raise Invalid(errors={"collection": [message]})
    key = keys.pop() if keys else ""
    if key and not Collection.objects.filter(pk=key).exists():
        message = f"There is no collection “{key[:100]}”."
        raise Invalid(errors={"collection": [message]})
    return key


def _is_known(position: Position) -> bool:
    """Return whether there is that change; a dump put back by hand may lack it."""
    transaction, pk = position
    known = ItemChange.objects.filter(pk=pk, transaction=transaction)
    return position == START or known.exists()


def as_json(change: ItemChange) -> dict[str, Any]:
    """Return a change as it is public: without its author."""
    return {
        "id": change.pk,
        "item_id": public_id(change.item_id),
        "version": change.version,
        "action": change.action,
        "before": fields.public_state(change.before, change.item_id),
        "after": fields.public_state(change.after, change.item_id),
        "at": change.at,
        "request_id": change.request_id,
        "client_request_id": change.client_request_id,
        "batch": change.batch,
    }
