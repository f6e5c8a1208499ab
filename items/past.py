"""Items as they were: a version, or the state at a time, read in the change log.

The state at a time is that of the highest version whose change was made by then. A
change appears when its transaction ends, so a time is settled once no transaction that
began before it can be open.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Self

from django.conf import settings
from django.db.models import (
    BigAutoField,
    BooleanField,
    DateField,
    F,
    Func,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Value,
)
from django.db.models.functions import Cast, Coalesce
from django.http import QueryDict
from django.utils import timezone

from items import fields, filters, rules
from items.catalogue import ItemDeleted, ItemNotFound
from items.field_types import ItemField, public_id
from items.models import ItemChange
from resilient_site.api.keyset import (
    Cursor,
    Page,
    columns,
    decode_cursor,
    make_page,
    read,
)
from resilient_site.api.pagination import parse_small_number
from resilient_site.api.unknown_names import names_beyond
from resilient_site.errors import Invalid

Action = ItemChange.Action
PARAMETERS = ("version", "as_of")
ORDERINGS = {"id": "item_id", "-id": "-item_id"}
# Changes that a page looks at.
SCANNED_MAX = 10_000
# What the log can be asked for beside the filters that fields declare.
CONDITIONS = ("valid_on",)
COMBINABLE = {
    "as_of", "fields", "ordering", "cursor", "page_size", *fields.FILTERS, *CONDITIONS,
}  # fmt: skip
NOT_COMBINABLE = "Cannot be combined with {}."


class VersionNotFound(ItemNotFound):
    code = "version_not_found"
    detail = "The item has no such version."


class ItemPurged(ItemDeleted):
    code = "item_purged"
    detail = "What the item was then was removed for good."


def state_of(query: QueryDict, item_id: str) -> tuple[ItemChange, bool]:
    """Return the change that made the item what `version` or `as_of` asks for.

    And whether that is settled. Raises Invalid, and ItemNotFound or ItemDeleted where
    it was none.
    """
    errors = {}
    given = [name for name in PARAMETERS if query.get(name)]
    if len(given) > 1:
        errors["as_of"] = [NOT_COMBINABLE.format("version")]
    if query.get("expand"):
        errors["expand"] = [NOT_COMBINABLE.format(given[0])]
    number = at = None
    if given == ["version"]:
        number = _parsed(errors, "version", partial(_version, query.get("version", "")))
    elif given == ["as_of"]:
        at = _parsed(errors, "as_of", partial(moment, query.get("as_of", "")))
    if errors:
        raise Invalid(errors=errors)
    rows = _with_creation(ItemChange.objects.filter(item_id=item_id))
    rows = rows.filter(version=number) if number else rows.filter(at__lte=at)
    change = rows.order_by("-version").first()
    if change is None:
        is_known = number and ItemChange.objects.filter(item_id=item_id).exists()
        raise VersionNotFound if is_known else ItemNotFound
    if change.action == Action.DELETED:
        raise ItemDeleted(members={"deleted_at": change.at})
    if change.after is None:
        raise ItemPurged
    return change, at is None or is_settled(at)


def as_json(change: ItemChange) -> dict[str, Any]:
    """Return the item as REST showed it after this change."""
    return {
        "id": public_id(change.item_id),
        **(fields.public_state(change.after, change.item_id) or {}),
        "version": change.version,
        "created_at": getattr(change, "created_at", None) or change.at,
        "updated_at": change.at,
    }


def is_settled(at: datetime) -> bool:
    """Return whether what was at this time can only change by a purge."""
    return (timezone.now() - at).total_seconds() > max(settings.DEADLINES_S.values())


def moment(text: str) -> datetime:
    """Return a time in the past; raise ValueError if it is none."""
    if len(text.strip()) <= len("2026-12-31"):
        # Its first moment, or its last one?
        raise ValueError("Must be a time of that day, such as 2026-12-31T23:59:59Z.")
    at = rules.clean_time(text)
    if at > timezone.now():
        raise ValueError(f"Is yet to come: it is {timezone.now():%Y-%m-%dT%H:%M:%SZ}.")
    return at


def _parsed[T](
    errors: dict[str, list[str]], name: str, parse: Callable[[], T]
) -> T | None:
    try:
        return parse()
    except ValueError as error:
        errors[name] = [str(error)]
        return None


def _version(text: str) -> int:
    number = parse_small_number(text)
    if not number:
        raise ValueError("Must be the number of a version, from 1 on.")
    return number


def _with_creation(rows: QuerySet[ItemChange]) -> QuerySet[ItemChange]:
    """Annotate when the item of this version was created: the last time before it."""
    creations = ItemChange.objects.filter(
        item_id=OuterRef("item_id"),
        version__lte=OuterRef("version"),
        action=Action.CREATED,
    )
    created_at = creations.order_by("-version").values("at")[:1]
    return rows.annotate(created_at=Subquery(created_at))


class Member(Func):
    """Text of a member of a state; null if it has none."""

    template = "JSON_EXTRACT(%(expressions)s, '$.%(name)s')"
    output_field = TextField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "(%(expressions)s ->> '%(name)s')"
        return self.as_sql(compiler, connection, template=template, **context)


class HasTag(Func):
    """Whether a state has a tag: `HasTag("after", Value(name))`."""

    template = "EXISTS (SELECT 1 FROM json_each(%(expressions)s))"
    arg_joiner = ", '$.tags') WHERE value = ("
    output_field = BooleanField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        context |= {"template": "(%(expressions)s)", "arg_joiner": " -> 'tags' ? "}
        return self.as_sql(compiler, connection, **context)


@dataclass(frozen=True)
class PastList:
    """The parameters of a list of items with `as_of`."""

    at: datetime
    filters: Mapping[str, tuple[str, ...]]
    conditions: Sequence[Q]
    ordering: str

    @classmethod
    def parse(cls, query: QueryDict, known: tuple[str, ...]) -> Self:
        """Raise Invalid with what is wrong, by parameter; `known` are all of a list."""
        beyond = {*query} - COMBINABLE - {*names_beyond(query, known)}
        errors = {
            name: [NOT_COMBINABLE.format("as_of")]
            for name in beyond
            if query[name] not in ("", "false")
        }
        at = _parsed(errors, "as_of", partial(moment, query.get("as_of", "")))
        by_field = {
            name: _parsed(errors, name, partial(f.parse_filter, query.getlist(name)))
            for name, f in fields.FILTERS.items()
        }
        conditions = [
            _parsed(errors, name, partial(filters.FILTERS[name].condition, values))
            for name in CONDITIONS
            if (values := filters.values_of(query, name))
        ]
        ordering = query.get("ordering") or "id"
        if ordering not in ORDERINGS:
            message = f"With as_of it is one of {', '.join(ORDERINGS)}."
            errors["ordering"] = [message]
        if errors or at is None:
            raise Invalid(errors=errors)
        given = {name: values for name, values in by_field.items() if values}
        return cls(at, given, [q for q in conditions if q], ORDERINGS[ordering])

    def rows(self) -> QuerySet[ItemChange]:
        """Return the changes that made the items what they were."""
        made = ItemChange.objects.filter(at__lte=self.at)
        same = made.filter(item_id=OuterRef("item_id")).order_by("-version")
        # For each row by the index of versions: a join would sort the whole log.
        rows = made.filter(version=Subquery(same.values("version")[:1]))
        rows = rows.filter(after__isnull=False).alias(
            **{field.column: _stored(field) for field in FILTERED}
        )
        for name, values in self.filters.items():
            field = fields.FILTERS[name]
            if field.is_list:
                for value in values:
                    rows = rows.filter(HasTag("after", Value(value)))
            else:
                rows = rows.filter(**{f"{field.column}__in": values})
        for condition in self.conditions:
            rows = rows.filter(condition)
        return _with_creation(rows)

    def page(self, *, cursor: str | None, size: int) -> Page[ItemChange]:
        """Return what SCANNED_MAX changes have, which may be less than a page or none.

        Whatever the filter leaves: the log can be long, and has no index of states.
        """
        rows = self.rows()
        at = decode_cursor(cursor, rows, self.ordering)
        backwards = at is not None and at.backwards
        descending = self.ordering.startswith("-") != backwards
        last = _last_scanned(at.values[0] if at else None, descending)
        if last is not None:
            bound = "item_id__gte" if descending else "item_id__lte"
            rows = rows.filter(**{bound: last})
        found = read(
            rows,
            columns(ItemChange, self.ordering),
            after=at.values if at else None,
            descending=descending,
            limit=size + 1,
        )
        page = make_page(found, ordering=self.ordering, at=at, size=size)
        if last is None or len(found) > size:
            return page
        beyond = last, 0 if descending else BigAutoField.MAX_BIGINT
        further = Cursor(self.ordering, backwards, beyond).encode()
        if backwards:
            return replace(page, previous=further)
        return replace(page, next=further)


def _last_scanned(after: str | None, descending: bool) -> str | None:
    """Return the last item that a page looks at; None: all that there are."""
    log = ItemChange.objects.order_by("-item_id" if descending else "item_id")
    if after is not None:
        log = log.filter(**{"item_id__lt" if descending else "item_id__gt": after})
    ids = log.values_list("item_id", flat=True)
    return ids[SCANNED_MAX : SCANNED_MAX + 1].first()


# The columns of an item that the conditions above name.
FILTERED = [f for f in fields.STATE_FIELDS if f.is_column and f.kind != "json"]


def _stored(field: ItemField) -> Any:
    """Return what an item had in a column, from its state after a change.

    That of an earlier release lacks some, which had their default then.
    """
    text = Member("after", name=field.name)
    if field.kind == "date":
        return Cast(text, DateField())
    default = F("item_id") if field.name == "code" else Value(field.empty())
    return (
        text
        if field.empty() is None
        else Coalesce(text, default, output_field=TextField())
    )
