"""Keyset pagination: page 1 and page 10,000 cost the same.

A page is found by the values of the row before it, so no row is skipped or repeated
when others are inserted or deleted. Every ordering ends in the primary key.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson
from django.core.exceptions import ValidationError
from django.db.models import F, Model, QuerySet
from django.db.models.fields.tuple_lookups import TupleGreaterThan, TupleLessThan
from django.db.models.functions import Greatest

from resilient_site.errors import Invalid


@dataclass(frozen=True)
class Page[M: Model]:
    rows: Sequence[M]
    next: str | None
    previous: str | None


@dataclass(frozen=True)
class Cursor:
    """A position in a list: values of the ordering's columns, and the direction."""

    ordering: str
    backwards: bool
    values: tuple[Any, ...]

    def encode(self) -> str:
        parts = [self.ordering, int(self.backwards), *self.values]
        return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")

    @classmethod
    def decode(
        cls,
        text: str,
        model: type[Model],
        ordering: str,
        annotations: Mapping[str, Any] | None = None,
    ) -> Self:
        """Raise ValueError if `text` is not a cursor of this ordering of `model`."""
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            named, backwards, *raw = orjson.loads(base64.urlsafe_b64decode(padded))
            annotated = annotations or {}
            fields: list[Any] = [
                annotated[name].output_field
                if name in annotated
                else model._meta.get_field(name)
                for name in columns(model, ordering)
            ]
            values = tuple(
                _checked(field.to_python(value))
                for field, value in zip(fields, raw, strict=True)
            )
        except (TypeError, OverflowError, ValidationError) as error:
            raise ValueError from error
        if named != ordering or backwards not in (0, 1):
            raise ValueError
        return cls(ordering, bool(backwards), values)


def _checked(value: Any) -> Any:
    if value is None or (isinstance(value, str) and "\0" in value):
        raise ValueError
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError
        return value.astimezone(UTC)  # OverflowError at the first and last day
    return value


def columns(model: type[Model], ordering: str) -> list[str]:
    """Return the columns of `ordering` ("-name", "rank,name"), the primary key last."""
    key = model._meta.pk.name
    fields = ordering.removeprefix("-").split(",")
    return fields if fields[-1] in (key, "pk") else [*fields, key]


def paginate[M: Model](
    rows: QuerySet[M],
    *,
    ordering: str,
    cursor: str | None,
    size: int,
    sort: bool = False,
) -> Page[M]:
    """Return the page of `rows` at `cursor`, or the first one.

    With `sort` the database sorts all rows instead of reading them in the order of an
    index: faster for a filter that few rows match. Raises Invalid for the cursor of
    another list or ordering.
    """
    at = decode_cursor(cursor, rows, ordering)
    backwards = at is not None and at.backwards
    found = read(
        rows,
        columns(rows.model, ordering),
        after=at.values if at else None,
        descending=ordering.startswith("-") != backwards,
        limit=size + 1,
        sort=sort,
    )
    return make_page(found, ordering=ordering, at=at, size=size)


def decode_cursor(
    cursor: str | None, rows: QuerySet[Any], ordering: str
) -> Cursor | None:
    if not cursor:
        return None
    try:
        return Cursor.decode(cursor, rows.model, ordering, rows.query.annotations)
    except ValueError as error:
        message = "This is not a cursor of this list and ordering."
        raise Invalid(errors={"cursor": [message]}) from error


def read[M: Model](
    rows: QuerySet[M],
    names: Sequence[str],
    *,
    after: tuple[Any, ...] | None,
    descending: bool,
    limit: int,
    sort: bool = False,
) -> list[M]:
    # Greatest makes an expression of the column, which has no index.
    keys = [Greatest(name, name) if sort else F(name) for name in names]
    rows = rows.order_by(*(key.desc() if descending else key.asc() for key in keys))
    if after is not None:
        beyond = TupleLessThan if descending else TupleGreaterThan
        rows = rows.filter(beyond(tuple(F(name) for name in names), after))
    return list(rows[:limit])


def make_page[M: Model](
    found: list[M], *, ordering: str, at: Cursor | None, size: int
) -> Page[M]:
    """Return the page of what was found from `at` on: one row more, if there is one."""
    backwards = at is not None and at.backwards
    more, found = len(found) > size, found[:size]
    if backwards:
        found.reverse()

    def edge(row: M, towards: bool) -> str:
        values = tuple(getattr(row, n) for n in columns(type(row), ordering))
        return Cursor(ordering, towards, values).encode()

    has_next = bool(found) and (more or backwards)
    has_previous = bool(found) and at is not None and (more or not backwards)
    return Page(
        rows=found,
        next=edge(found[-1], False) if has_next else None,
        previous=edge(found[0], True) if has_previous else None,
    )
