"""Writing of up to `ROWS_MAX` items at once, all or none.

A call is one transaction, and one batch of the change log. What is wrong is found in
one round and named by the index of the row, whichever rule it breaks: whether the item
is there, in which version, its values, what it must be to others. Rows may refer to
each other. The writing itself is that of imports (`staging`).
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError
from uuid_utils.compat import uuid7

from items import catalogue, fields, integrity, rules
from items.bulk import staging
from items.bulk.batches import begin_batch, finish_batch, record_batch
from items.bulk.checking import SET, Batch
from items.catalogue import ItemExists
from items.field_types import public_id
from items.fields import ItemData
from items.integrity import ItemErrors
from items.models import ChangeBatch, Item
from resilient_site.accounts.actor import Actor
from resilient_site.api.unknown_names import UnknownField, find_unknown
from resilient_site.errors import Conflict, Invalid, PreconditionRequired
from resilient_site.resilience.transactions import atomic_with_retries

ROWS_MAX = 1_000
VERSION_MAX = 2**31 - 1
# What names an item: its id, or its place.
NAMES = ("id", "collection", "code")

VERSION_REQUIRED = (
    "This site accepts changes only to a version that you have read: rows need it as "
    "`version`. Nothing was changed."
)

# A collection and a code.
type Place = tuple[str, str]
# What is wrong with rows, by index.
type RowErrors = dict[int, ItemErrors]


class NothingWritten(Invalid):
    detail = "Nothing was changed. The errors are by the index of the row."
    is_outcome = True


class RowsStale(Conflict):
    code = "stale_version"
    detail = (
        "Nothing was changed: items were changed since the versions that the rows "
        "have. Read them again, then repeat the request."
    )


class Kind(NamedTuple):
    title: str
    # Takes a row, and whether unknown members are ignored; raises Invalid.
    clean: Callable[[Any, bool], ItemData]
    creates: bool = False
    changes: bool = True


class Written(NamedTuple):
    # As REST shows them, in the order of the rows; none that were deleted.
    items: list[ItemData]
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    # None if nothing was changed.
    batch_id: UUID | None = None


class Rows:
    """The rows of a body, by index: what is right in itself, and what is wrong."""

    def __init__(self, body: Any, kind: Kind, *, ignores_unknown: bool = False) -> None:
        """Raise Invalid if `body` is not a list of 1 to ROWS_MAX."""
        if not isinstance(body, list) or not 1 <= len(body) <= ROWS_MAX:
            raise Invalid(f"The body must be a list of 1 to {ROWS_MAX:,} items.")
        self.kind = kind
        self.data: dict[int, ItemData] = {}
        # What names the items, of the wrong rows too as far as it is right.
        self.names: dict[int, ItemData] = {}
        self.versions: dict[int, int] = {}
        self.errors: RowErrors = {}
        self.has_unknown = False
        for index, row in enumerate(body):
            errors: ItemErrors = {}
            try:
                self.data[index] = self.names[index] = kind.clean(row, ignores_unknown)
            except Invalid as error:
                self.names[index], errors = _clean_names(row), dict(error.errors or {})
                self.has_unknown |= isinstance(error, UnknownField)
            if kind.changes and isinstance(row, Mapping):
                try:
                    if version := _clean_version(row.get("version")):
                        self.versions[index] = version
                except ValueError as error:
                    errors["version"] = [str(error)]
            if errors:
                self.errors[index] = errors

    def reject(self, found: RowErrors) -> NoReturn:
        """Raise the error for what is `found`, and what the rows have themselves."""
        errors = {
            index: found.get(index, {}) | self.errors.get(index, {})
            for index in sorted({*found, *self.errors})
        }
        by_index = {str(index): error for index, error in errors.items()}
        if self.errors:
            error_type = UnknownField if self.has_unknown else Invalid
            raise error_type(NothingWritten.detail, errors=by_index)
        if any(error.keys() != {"version"} for error in errors.values()):
            raise NothingWritten(errors=by_index)
        if errors.keys() <= self.versions.keys():
            raise RowsStale(errors=by_index)
        raise PreconditionRequired(VERSION_REQUIRED, errors=by_index)


class Located:
    """The ids of the items that rows are about, by index; new ones have theirs too."""

    def __init__(self, rows: Rows) -> None:
        kind = rows.kind
        self.errors: RowErrors = {}
        self.ids: dict[int, str] = {}
        self.generated: set[str] = set()
        # Of the rows that name a code and no id.
        self.places: dict[int, Place] = {
            index: (names.get("collection", rules.GENERAL), names["code"])
            for index, names in rows.names.items()
            if "id" not in names and "code" in names
        }
        # What is created is found by its own id: another one is an error of the code.
        places = self.places.values() if kind.changes else ()
        self.known = Item.objects.ids_by_place(places)
        first: dict[str | Place, int] = {}
        for index, names in rows.names.items():
            pk = names.get("id") or self.known.get(self.places.get(index, ("", "")))
            if not pk and kind.changes and "code" not in names:
                if index in rows.data:
                    message = "An id is required, or a collection and a code."
                    self.errors[index] = {"id": [message]}
                continue
            if not (pk := pk or integrity.derived_id(names)):
                pk = integrity.new_id()
                self.generated.add(pk)
            keys: list[str | Place] = [pk]
            if "collection" in names and "code" in names:
                keys.append((names["collection"], names["code"]))
            earlier = min(first.setdefault(key, index) for key in keys)
            if earlier < index:
                name = "id" if "id" in names else "code"
                self.errors[index] = {name: [f"Row {earlier} is about the same item."]}
            else:
                self.ids[index] = pk

    def errors_of(
        self, rows: Rows, places: Mapping[str, Place], versions: Mapping[str, int]
    ) -> tuple[RowErrors, RowErrors]:
        """Return which rows' items are there or not against their kind, or changed.

        `places` and `versions` are those of the items, by id, as they are now. Raises
        IntegrityError if another one has a row's code than before: all starts again.
        """
        unexpected: RowErrors = {}
        stale: RowErrors = {}
        for index, pk in self.ids.items():
            place, is_known = self.places.get(index), pk in places
            if place and rows.kind.changes:
                is_known = place in self.known
                if is_known != (places.get(pk) == place):
                    raise IntegrityError("The code of an item was changed meanwhile.")
            if not is_known and not rows.kind.creates:
                unexpected[index] = _absent(pk, place)
            elif pk in places and not (is_known and rows.kind.changes):
                unexpected[index] = {"id": [ItemExists.detail]}
            elif error := _version_error(rows.versions.get(index), versions.get(pk)):
                stale[index] = {"version": [error]}
        return unexpected, stale


def _absent(pk: str, place: Place | None) -> ItemErrors:
    if place and place[0] != rules.GENERAL:
        key, code = place
        return {"code": [f"There is no code “{code}” in the collection “{key}”."]}
    return {"code" if place else "id": [f"There is no item “{pk}”."]}


def _version_error(given: int | None, current: int | None) -> str:
    if given is None:
        is_missing = settings.REQUIRE_IF_MATCH and current is not None
        return "This field is required." if is_missing else ""
    if given == current:
        return ""
    now = "is not there" if current is None else f"is at version {current}"
    return f"Conflict: the item {now}, and this row is made of version {given}."


@atomic_with_retries
def write(rows: Rows, *, actor: Actor) -> Written:
    """Create and change items.

    Raises NothingWritten, or RowsStale if all that is wrong are versions; Invalid or
    UnknownField if rows are wrong in themselves.
    """
    located = Located(rows)
    # Rows with errors are not staged, and may have others beside.
    places, versions = _find(located.ids[n] for n in rows.errors if n in located.ids)

    def expect(batch: Batch) -> dict[str, ItemErrors]:
        for pk, known in batch.known.items():
            places[pk] = known["collection"], known["code"]
        versions.update(batch.versions)
        unexpected, stale = located.errors_of(rows, places, versions)
        batch.reject({located.ids[index]: unexpected[index] for index in unexpected})
        return {located.ids[index]: stale[index] for index in stale}

    staged = [
        rows.data[index] | {"id": pk}
        for index, pk in located.ids.items()
        if index in rows.data
    ]
    batch = Batch(staged, locks=True, generated=located.generated, expect=expect)
    if rows.errors or located.errors or batch.errors:
        _reject(rows, located, batch.errors)
    batch_id = uuid7()
    counts = staging.write(batch, actor=actor, batch_id=batch_id)
    done = {"created": counts.created, "updated": counts.updated}
    if any(done.values()):
        kind, title = ChangeBatch.Kind.BULK, rows.kind.title
        record_batch(batch_id, kind, title, actor=actor, **done)
    return Written(
        _shown(batch, [row["id"] for row in staged]),
        **done,
        unchanged=counts.unchanged,
        batch_id=batch_id if any(done.values()) else None,
    )


def _shown(batch: Batch, ids: list[str]) -> list[ItemData]:
    """Return the items as REST shows them, without reading anew what is known."""
    if batch.created:
        return [
            {
                "id": public_id(pk),
                **(fields.public_state(batch.states[pk], pk) or {}),
                **batch.created[pk],
            }
            for pk in ids
        ]
    items = Item.objects.for_reading().in_bulk(ids)
    return [items[pk].as_json() for pk in ids]


def _reject(rows: Rows, located: Located, wrong: Mapping[str, ItemErrors]) -> NoReturn:
    """Raise the error; without what is wrong only because another row is."""
    errors = dict(located.errors)
    new: set[str] = set()
    for index, pk in located.ids.items():
        is_root = index in rows.errors
        if found := wrong.get(pk):
            errors[index] = found
            is_root = not integrity.absent_names(found)
        if is_root and rows.kind.creates:
            names = rows.names[index]
            key, code = names.get("collection", rules.GENERAL), names.get("code", pk)
            new |= {pk, integrity.place_name(key, code)}
    for index, found in list(errors.items()):
        if (absent := integrity.absent_names(found)) and absent <= new:
            del errors[index]
    rows.reject(errors)


@atomic_with_retries
def delete(rows: Rows, *, actor: Actor) -> Written:
    """Delete items; raises what `write` does, and ItemReferenced."""
    located = Located(rows)
    ids = list(located.ids.values())
    integrity.lock_wholly(ids)
    places, versions = _find(ids)
    unexpected, stale = located.errors_of(rows, places, versions)
    errors = located.errors | stale | unexpected
    if rows.errors or errors:
        index_of = {pk: index for index, pk in located.ids.items()}
        for reference in integrity.references_to(list(places)):
            message = f"The item “{reference['item']}” refers to it."
            errors.setdefault(index_of[reference["target"]], {"id": [message]})
        rows.reject(errors)
    batch = begin_batch(ChangeBatch.Kind.BULK, rows.kind.title, actor=actor)
    catalogue.delete_items(ids, actor=actor, batch_id=batch.pk)
    finish_batch(batch.pk)
    return Written([], deleted=len(ids), batch_id=batch.pk)


def _find(item_ids: Iterable[str]) -> tuple[dict[str, Place], dict[str, int]]:
    """Return the places and the versions of the items that there are."""
    places: dict[str, Place] = {}
    versions: dict[str, int] = {}
    if item_ids := list(item_ids):
        rows = Item.objects.filter(pk__in=item_ids)
        columns = ("pk", "collection_id", "code", "version")
        for pk, key, code, version in rows.values_list(*columns):
            places[pk], versions[pk] = (key, code or pk), version
    return places, versions


def _clean(row: Any, ignores_unknown: bool) -> ItemData:
    return fields.clean(row, is_json=True, ignores_unknown=ignores_unknown)


def _clean_replacement(row: Any, ignores_unknown: bool) -> ItemData:
    return fields.replacement(_clean(row, ignores_unknown))


def _clean_change(row: Any, ignores_unknown: bool) -> ItemData:
    return fields.clean(
        row, partial=True, is_json=True, ignores_unknown=ignores_unknown
    )


def _clean_merge_patch(row: Any, ignores_unknown: bool) -> ItemData:
    """Take a row as a JSON merge patch of its item, see `fields.patched`."""
    if not isinstance(row, Mapping):
        return _clean_change(row, ignores_unknown)
    members = {
        part: row[name]
        for part, name in SET.items()
        if isinstance(row.get(name), Mapping)
    }
    empty = fields.replacement({})
    whole = {
        name: empty.get(name) if value is None else value
        for name, value in row.items()
        if not isinstance(value, Mapping) or name not in SET.values()
    }
    return _clean_change(whole, ignores_unknown) | members


def _clean_deletion(row: Any, ignores_unknown: bool) -> ItemData:
    if not isinstance(row, Mapping):
        row = {"id": row}
    names = {name: row[name] for name in NAMES if name in row}
    if not ignores_unknown and not row.keys() <= {*NAMES, "version"}:
        raise UnknownField(errors=find_unknown(row, {*NAMES, "version"}))
    return _clean_change(names, ignores_unknown)


def _clean_names(row: Any) -> ItemData:
    """Return what names the item, as far as it is right."""
    names: ItemData = {}
    for name in NAMES:
        if isinstance(row, Mapping) and name in row:
            with suppress(Invalid):
                names |= _clean_change({name: row[name]}, True)
    return names


def _clean_version(value: Any) -> int | None:
    if value is None:
        return None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= VERSION_MAX:
        raise ValueError("Must be a whole number from 1.")
    return int(value)


CREATE = Kind("Bulk create", _clean, creates=True, changes=False)
REPLACE = Kind("Bulk replace", _clean_replacement, creates=True)
CHANGE = Kind("Bulk change", _clean_change)
MERGE_PATCH = Kind("Bulk change", _clean_merge_patch)
DELETE = Kind("Bulk delete", _clean_deletion)
