"""The search columns of items that are stored already, made anew.

That of an earlier release has another mark, or none; that of a collection whose schema
was changed may have other attributes.
"""

import time
from collections.abc import Callable
from math import inf
from typing import Any

from django.db import connection, transaction

from items import fields
from items.collections.schema import compile_schema
from items.models import Item, ItemQuerySet
from items.search import HasNoMark

COMPARED_BATCH = 1_000
RENEWED_BATCH = 100
_RENEWED = ", ".join(f"{name} = %s" for name in fields.SEARCH_COLUMNS)
RENEWAL = f"UPDATE items_item SET code = %s, {_RENEWED} WHERE id = %s"  # noqa: S608 - our names


def renew(model: type[Item] = Item, *, for_s: float = inf) -> int:
    """Make the search columns anew that an earlier release wrote; return how many.

    While that one still runs, its writes leave more of them. No batch is begun after
    `for_s` seconds.
    """
    renewed, last, until = 0, "", time.monotonic() + for_s
    # A migration of an earlier release does not know a later field.
    known = {field.name for field in model._meta.get_fields()}
    names = [name for name in fields.SEARCHED if name in known]
    while True:
        with transaction.atomic():
            # What is locked is being written, so that it may not stay old.
            rows = outdated(model).filter(pk__gt=last)
            rows = rows.select_for_update(skip_locked=True, of=("self",))
            columns = ("pk", "collection__schema", *names)
            states = list(rows.values(*columns)[:RENEWED_BATCH])
            texts = [_renewed(state) for state in states]
            with connection.cursor() as cursor:
                cursor.executemany(RENEWAL, texts)
        if not states:
            return renewed
        renewed, last = renewed + len(states), states[-1]["pk"]
        if time.monotonic() >= until:
            return renewed


def renew_collection(key: str, on_batch: Callable[[int], None]) -> None:
    """Make those search columns of a collection anew that would be others now."""
    columns = ("pk", "collection__schema", *fields.SEARCHED)
    rows, last = Item.objects.filter(collection=key).order_by("pk"), ""
    while states := list(
        rows.filter(pk__gt=last).values(*columns, *fields.SEARCH_COLUMNS)[
            :COMPARED_BATCH
        ]
    ):
        different = [
            state["pk"]
            for state in states
            if _renewed(state)[1:-1]
            != tuple(state[name] for name in fields.SEARCH_COLUMNS)
        ]
        with transaction.atomic():
            found = Item.objects.filter(pk__in=different).order_by("pk")
            locked = found.select_for_update(of=("self",)).values(*columns)
            texts = [_renewed(state) for state in locked]
            with connection.cursor() as cursor:
                cursor.executemany(RENEWAL, texts)
        last = states[-1]["pk"]
        on_batch(len(states))


def _renewed(state: dict[str, Any]) -> tuple[str, ...]:
    """Return the values of RENEWAL for an item."""
    code = state["code"] or state["pk"]
    searchable = compile_schema(state["collection__schema"]).searchable
    whole = fields.empty_state() | state | {"code": code}
    columns = fields.search_columns(whole, searchable)
    return code, *columns.values(), state["pk"]


def outdated(model: type[Item]) -> ItemQuerySet:
    """Return the items whose search columns are of an earlier release, by an index."""
    return model.objects.filter(HasNoMark("search_text")).order_by("pk")
