"""Encoding of changes as CloudEvents 1.0, in JSON's structured mode."""

import orjson

from items.models import ItemChange

CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "/resilient-site/items"
# As many digits as the largest id of a change has.
DIGITS = 19


def type_of(change: ItemChange) -> str:
    return f"resilient-site.item.{change.action}"


def event_id(change: ItemChange) -> str:
    """Return an id that stays unique after an older dump was restored.

    A restored database assigns the ids of changes that it lacks a second time.
    """
    return f"{change.pk}-{round(change.at.timestamp() * 1_000_000)}"


def encode(change: ItemChange) -> bytes:
    """Return the event, without the author of the change, who stays private."""
    event = {
        "specversion": "1.0",
        "id": event_id(change),
        "source": SOURCE,
        "type": type_of(change),
        "subject": change.item_id,
        "time": change.at,
        # Of two events of one item the later one has the greater value, as text.
        "sequence": f"{change.pk:0{DIGITS}}",
        "datacontenttype": "application/json",
        "data": {
            "version": change.version,
            "before": change.before,
            "after": change.after,
        },
    }
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)
