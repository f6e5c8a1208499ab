"""A change as a CloudEvent 1.0, in the structured mode of JSON."""

import orjson

from items.models import ItemChange

CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "/resilient-site/items"
# As many digits as the largest id of a change has.
DIGITS = 19


def type_of(change: ItemChange) -> str:
    return f"resilient-site.item.{change.action}"


def event_id(change: ItemChange) -> str:
    """Return what no other change has, also after an older dump was restored.

    There the ids of changes that it does not have are given once more.
    """
    return f"{change.pk}-{round(change.at.timestamp() * 1_000_000)}"


def encode(change: ItemChange) -> bytes:
    """Return the event without the one who made the change: that is not for all."""
    event = {
        "specversion": "1.0",
        "id": event_id(change),
        "source": SOURCE,
        "type": type_of(change),
        "subject": change.item_id,
        "time": change.at,
        # Of two events of one item the later has the greater one, as text.
        "sequence": f"{change.pk:0{DIGITS}}",
        "datacontenttype": "application/json",
        "data": {
            "version": change.version,
            "before": change.before,
            "after": change.after,
        },
    }
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)
