"""Change feed: the change log in the order in which it becomes final.

A change appears once no later commit can precede it, so that a reader that remembers
its position misses none and sees none twice.
"""

from typing import Any

from django.db.models import F
from django.db.models.fields.tuple_lookups import TupleGreaterThan

from items import fields
from items.changes.transactions import next_transaction
from items.models import ItemChange
from resilient_site.api.keyset import Cursor
from resilient_site.errors import Invalid

# Transaction and id of a change; what comes after it is greater.
type Position = tuple[int, int]

ORDERING = "transaction"
START: Position = (0, 0)
NOW = "now"


def position_of(change: ItemChange) -> Position:
    return change.transaction, change.pk


def cursor_of(position: Position) -> str:
    return Cursor(ORDERING, False, position).encode()


def is_after(position: Position) -> TupleGreaterThan:
    """Return the condition for changes after `position`."""
    return TupleGreaterThan((F("transaction"), F("id")), position)


def changes_after(position: Position, limit: int) -> list[ItemChange]:
    """Return the next final changes."""
    return list(ItemChange.objects.settled().filter(is_after(position))[:limit])


def last_changes(limit: int) -> list[ItemChange]:
    """Return the last final changes, the earliest first."""
    return list(ItemChange.objects.settled().reverse()[:limit])[::-1]


def end() -> Position:
    """Return the position of the last final change."""
    last = last_changes(1)
    return position_of(last[0]) if last else START


def parse_cursor(text: str | None, named: str) -> Position:
    """Return the position of a cursor: without one the start, for `now` the end.

    Raises Invalid, for the parameter `named`, if it is not a cursor of this feed.
    """
    if not text:
        return START
    if text == NOW:
        return end()
    try:
        transaction, pk = Cursor.decode(text, ItemChange, ORDERING).values
    except ValueError as error:
        message = "This is not a cursor of this list and ordering."
        raise Invalid(errors={named: [message]}) from error
    unused = next_transaction()
    if unused is not None and transaction >= unused:
        message = (
            "This cursor is from another copy of the catalogue, such as one before a "
            "restore. Start again without it."
        )
        raise Invalid(errors={named: [message]})
    return transaction, pk


def as_json(change: ItemChange) -> dict[str, Any]:
    """Return a change as it is public: without its author."""
    return {
        "id": change.pk,
        "item_id": fields.public_id(change.item_id),
        "version": change.version,
        "action": change.action,
        "before": change.before,
        "after": change.after,
        "at": change.at,
        "request_id": change.request_id,
        "client_request_id": change.client_request_id,
    }
