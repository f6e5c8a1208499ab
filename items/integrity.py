"""What an item must be to others: its collection, code, schema, references.

`check` is called by every way of writing, for one item and for thousands, in the
transaction of the write; it makes a fixed number of queries, and none for what did not
change. The database has constraints for what it can hold itself (codes, dates in order,
what is referred to exists); here they become errors that name the field.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Collection as Several
from itertools import chain
from typing import Any, NamedTuple, Self

from django.db import transaction
from django.db.models import Min, Q, QuerySet
from uuid_utils import uuid7

from items import fields, rules
from items.collections.attributes import AttributeValue
from items.fields import ItemData
from items.models import Collection, Item, ItemLink
from resilient_site.errors import Conflict, Invalid

REFERENCES_SHOWN = 20
# Levels of a hierarchy, so that an item's ancestors can be shown.
DEPTH_MAX = 50
POINTERS = ("parent", "replaced_by")
PLACE = {"collection", "code"}
# Fields whose values are checked against other items, or against the collection.
CHECKED = (
    "collection", "code", "attributes", "valid_from", "valid_to", "parent",
    "replaced_by", "links",
)  # fmt: skip


class ItemReferenced(Conflict):
    code = "item_referenced"
    detail = (
        "Other items refer to this one, so it cannot be deleted. Change or delete "
        "those first, or retire this one."
    )


class Write(NamedTuple):
    """An item as it is to be written, and as it was: None if it is new."""

    id: str
    before: ItemData | None
    after: ItemData

    def changes(self, *names: str) -> bool:
        """Return whether one of these fields is to be another one."""
        before, after = self.before, self.after
        if before is None:
            return True
        for name in names:  # a loop, as it is asked of every row of an import
            if after[name] is not before[name] and after[name] != before[name]:
                return True
        return False

    @property
    def gives_up_code(self) -> bool:
        return self.before is not None and self.changes("collection", "code")


class Absent(str):
    """Message that what is referred to does not exist, which it may later.

    Each of `names` is an id, or a place (see `place_name`).
    """

    names: frozenset[str]

    def __new__(cls, message: str, names: Iterable[str]) -> Self:
        made = super().__new__(cls, message)
        made.names = frozenset(names)
        return made


# Field name to its messages, by attribute for the attributes.
type ItemErrors = dict[str, Any]


def new_id() -> str:
    """Return an id for an item that was given none: unique, and sorted by time."""
    return str(uuid7())


def place(data: ItemData) -> ItemData:
    """Return the data of a new item with its collection, code and id.

    Raises Invalid if there is no code, or if it is not the id where it has to be.
    """
    key, code = data.get("collection", rules.GENERAL), data.get("code")
    item_id = data.get("id") or derived_id(data) or new_id()
    if key == rules.GENERAL:
        _expect_general(item_id, code)
        code = item_id
    elif code is None:
        raise Invalid(errors={"code": ["This field is required."]})
    return data | {"id": item_id, "collection": key, "code": code}


def place_name(key: str, code: str) -> str:
    """Return one text of a collection and a code, which is no id."""
    return f"{key} {code}"


def id_of(name: str) -> str:
    """Return the id that an item of this id or place has, unless given another one.

    Empty where one is generated.
    """
    key, _, code = name.partition(" ")
    return derived_id({"collection": key, "code": code}) if code else name


def derived_id(data: ItemData) -> str:
    """Return the id that the code makes, if that is a legal one."""
    key, code = data.get("collection", rules.GENERAL), data.get("code")
    if code is None or key == rules.GENERAL:
        return code or ""
    item_id = f"{key}.{code}"
    return item_id if rules.is_legal_id(item_id) else ""


def new_state(data: ItemData, collections: Mapping[str, Collection]) -> ItemData:
    """Return the state of a new item, with the defaults of its collection."""
    empty = fields.empty_state()
    state = empty | {name: data[name] for name in data if name in empty}
    collection = collections.get(state["collection"])
    if collection and collection.attributes.defaults:
        state["attributes"] = collection.attributes.defaults | state["attributes"]
        state["attributes"] = dict(sorted(state["attributes"].items()))
    return state


def change(item_id: str, before: ItemData, changes: ItemData) -> ItemData:
    """Return the state after `changes`, of which those of other fields do not count."""
    after = before | {name: changes[name] for name in before if name in changes}
    if after["collection"] == rules.GENERAL:
        if "code" in changes and changes["code"] != before["code"]:
            _expect_general(item_id, changes["code"])
        after["code"] = item_id
    return after


def _expect_general(item_id: str, code: str | None) -> None:
    if code not in (None, item_id):
        message = f"In the collection “{rules.GENERAL}” the code is the id."
        raise Invalid(errors={"code": [message]})
    if not rules.is_legal_id(item_id):
        message = f"In the collection “{rules.GENERAL}” the code must be a legal id."
        raise Invalid(errors={"code": [message]})


def describe(errors: Mapping[str, Any]) -> str:
    """Return errors by field, and by attribute, as one line."""
    parts = []
    for name, found in errors.items():
        by_name = {name: found}
        if isinstance(found, Mapping):
            by_name = {f"{name}.{member}": texts for member, texts in found.items()}
        parts += [f"{place}: {' '.join(texts)}" for place, texts in by_name.items()]
    return "; ".join(parts)


def absent_names(errors: ItemErrors) -> frozenset[str]:
    """Return what does not exist, if nothing else is wrong; else nothing."""
    names: set[str] = set()
    for found in errors.values():
        by_name = found.values() if isinstance(found, Mapping) else [found]
        for message in chain.from_iterable(by_name):
            if not isinstance(message, Absent):
                return frozenset()
            names |= message.names
    return frozenset(names)


def collections_of(writes: Iterable[Write]) -> dict[str, Collection]:
    """Return the collections that items are in, or are to be in, by key."""
    states = (state for w in writes for state in (w.before, w.after) if state)
    return Collection.objects.in_bulk({state["collection"] for state in states})


@transaction.atomic
def errors_of(
    item_id: str | None, before: ItemData | None, data: ItemData
) -> ItemErrors:
    """Return what would be wrong if this was written now; `before` of a new item: None.

    For forms, which show all errors at their fields. The write checks again.
    """
    try:
        if item_id is None or before is None:
            placed = place(data)
            write = Write(placed["id"], None, fields.empty_state() | placed)
            found = collections_of([write])
            write = write._replace(after=new_state(placed, found))
        else:
            write = Write(item_id, before, change(item_id, before, data))
            found = collections_of([write])
    except Invalid as error:
        return dict(error.errors or {})
    return check([write], found).get(write.id, {})


def check(
    writes: Several[Write], collections: Mapping[str, Collection]
) -> dict[str, ItemErrors]:
    """Return what is wrong with each item, by id; locks what the answer depends on."""
    errors: dict[str, ItemErrors] = defaultdict(dict)
    changed = _changed(writes)
    _lock(writes, collections, changed)
    known = [write for write in writes if write.after["collection"] in collections]
    for write in writes:
        if write.after["collection"] not in collections:
            message = f"There is no collection “{write.after['collection']}”."
            errors[write.id]["collection"] = [message]
        start, end = write.after["valid_from"], write.after["valid_to"]
        if start and end and start > end:
            message = "Must not be before the first valid day."
            errors[write.id]["valid_to"] = [message]
    if changed & {"attributes", "collection"}:
        _check_attributes(known, collections, errors)
        _check_unique(known, collections, errors)
        _check_codes_referred_to(known, collections, errors)
    if changed & PLACE:
        _check_codes(known, errors)
        _check_departures(known, errors)
        _check_codes_given_up(known, errors)
    if changed & {*POINTERS, "links", "collection"}:
        _check_targets(known, errors)
        _check_circles([w for w in known if not errors.get(w.id)], errors)
    return {item_id: found for item_id, found in errors.items() if found}


def _changed(writes: Iterable[Write]) -> set[str]:
    """Return the fields that are to be others of any of the items."""
    changed, left = set[str](), list(CHECKED)
    for write in writes:
        found = [name for name in left if write.changes(name)]
        if found:
            changed.update(found)
            left = [name for name in left if name not in changed]
    return changed


def _lock(
    writes: Iterable[Write],
    collections: Mapping[str, Collection],
    changed: set[str],
) -> None:
    """Let no one else change the hierarchy, or unique values, of these collections.

    Else two moves could make a circle together, of which each sees one half. Nor refer
    to a code that an item gives up.
    """
    if changed & PLACE:
        lock_wholly([write.id for write in writes if write.gives_up_code])
    unique = {key for key in collections if _unique(collections[key])}
    if not (unique or changed & {*POINTERS, "collection"}):
        return
    keys = set()
    for write in writes:
        has_moved = any(write.after[n] for n in POINTERS) and write.changes(*POINTERS)
        has_left = write.before and write.changes("collection")
        if has_moved or has_left or write.after["collection"] in unique:
            keys |= {write.after["collection"]}
            keys |= {write.before["collection"]} if write.before else set()
    if keys:
        rows = Collection.objects.filter(pk__in=keys).order_by("pk")
        list(rows.select_for_update(no_key=True).values_list("pk"))


def lock_wholly(item_ids: Several[str]) -> None:
    """Wait for those who are about to refer to these items, and let others wait."""
    if item_ids:
        rows = Item.objects.filter(pk__in=item_ids).order_by("pk")
        list(rows.select_for_update().values_list("pk"))


def _check_attributes(
    writes: Iterable[Write],
    collections: Mapping[str, Collection],
    errors: dict[str, ItemErrors],
) -> None:
    for write in writes:
        if not write.changes("attributes", "collection"):
            continue
        collection = collections[write.after["collection"]]
        found = collection.attributes.errors(write.after["attributes"])
        if not found and (coming := collection.next_attributes):
            by_name = coming.errors(write.after["attributes"])
            found = {
                name: [
                    f"{message} (By the schema that is being introduced.)"
                    for message in messages
                ]
                for name, messages in by_name.items()
            }
        if found:
            errors[write.id]["attributes"] = found


def _check_codes(writes: Iterable[Write], errors: dict[str, ItemErrors]) -> None:
    """Find codes that another item of the collection has, or is given as well."""
    codes: dict[str, dict[str, str]] = defaultdict(dict)
    new = {write.id for write in writes if write.before is None}
    for write in writes:
        key, code = write.after["collection"], write.after["code"]
        if key == rules.GENERAL or not write.changes("collection", "code"):
            continue
        first = codes[key].setdefault(code, write.id)
        if first != write.id:
            errors[write.id]["code"] = [f"The item “{first}” has this code already."]
    for key, ids in codes.items():
        rows = Item.objects.with_codes(key, ids)
        for code, item_id in rows.values_list("code", "pk"):
            if item_id != ids[code]:
                message = f"The item “{item_id}” has this code already."
                errors[ids[code]]["code"] = [message]
            elif item_id in new:
                errors[item_id]["id"] = ["Item already exists"]


def _unique(collection: Collection) -> set[str]:
    return {name for schema in collection.schemas for name in schema.unique}


def _check_unique(
    writes: Iterable[Write],
    collections: Mapping[str, Collection],
    errors: dict[str, ItemErrors],
) -> None:
    given: dict[tuple[str, str], dict[Any, str]] = defaultdict(dict)
    unique = {key: names for key in collections if (names := _unique(collections[key]))}
    if not unique:
        return
    own = {write.id for write in writes}  # what they have now, they may give up
    changed = {w.id for w in writes if w.changes("collection", "attributes")}
    # First those that keep their value: it is the others that cannot have it.
    for write in sorted(writes, key=lambda w: w.id in changed):
        key = write.after["collection"]
        for name in unique.get(key, ()):
            value = write.after["attributes"].get(name)
            if value is None:
                continue
            first = given[key, name].setdefault(value, write.id)
            if first != write.id and write.id in changed:
                _add(errors[write.id], name, first)
    for (key, name), ids in given.items():
        values = [value for value, pk in ids.items() if pk in changed]
        found = having(key, name, values).values_list("attributes", "pk")
        for attributes, item_id in found:
            if item_id not in own:
                _add(errors[ids[attributes[name]]], name, item_id)


def _add(found: ItemErrors, attribute: str, item_id: str) -> None:
    message = f"The item “{item_id}” has this value already."
    found.setdefault("attributes", {})[attribute] = [message]


def _check_targets(writes: Several[Write], errors: dict[str, ItemErrors]) -> None:
    """Find references to items that do not exist, or are of another collection."""
    own = {write.id: write.after["collection"] for write in writes}
    targets = {target for write in writes for target in _targets(write)}
    if outside := targets - own.keys():
        own |= Item.objects.filter(pk__in=outside).values_list("pk", "collection_id")
    for write in writes:
        found = errors[write.id]
        for name in POINTERS:
            target = write.after[name]
            if not target or not write.changes(name, "collection"):
                continue
            if target not in own:
                found[name] = [Absent(f"There is no item “{target}”.", [target])]
            elif own[target] != write.after["collection"]:
                found[name] = [f"“{target}” is in the collection “{own[target]}”."]
        if not write.changes("links"):
            continue
        links = [link["target"] for link in write.after["links"]]
        if missing := [target for target in links if target not in own]:
            message = f"There is no item “{missing[0]}”."
            found["links"] = [Absent(message, missing)]
        elif write.id in links:
            found["links"] = ["An item has no link to itself."]


def _targets(write: Write) -> Iterator[str]:
    for name in POINTERS:
        if write.after[name] and write.changes(name, "collection"):
            yield write.after[name]
    if write.changes("links"):
        yield from (link["target"] for link in write.after["links"])


def _check_codes_referred_to(
    writes: Several[Write],
    collections: Mapping[str, Collection],
    errors: dict[str, ItemErrors],
) -> None:
    """Find attributes with the code of no item of the collection they refer to."""
    references = {key: _references(collections[key]) for key in collections}
    if not any(references.values()):
        return
    wanted: dict[str, set[str]] = defaultdict(set)
    for write in writes:
        for _, key, code in _codes_in(write, references):
            wanted[key].add(code)
    known = {
        (key, code)
        for key, codes in wanted.items()
        for code in Item.objects.keep_codes(key, codes)
    }
    if wanted:
        known -= {_place_of(w.before) for w in writes if w.before and w.gives_up_code}
        known |= {_place_of(w.after) for w in writes}
    for write in writes:
        for name, key, code in _codes_in(write, references):
            if (key, code) not in known:
                message = f"There is no code “{code}” in the collection “{key}”."
                absent = Absent(message, [place_name(key, code)])
                errors[write.id].setdefault("attributes", {})[name] = [absent]


def _codes_in(
    write: Write, references: Mapping[str, set[tuple[str, str]]]
) -> Iterator[tuple[str, str, str]]:
    """Yield attribute, collection and code of what the attributes refer to.

    `references` are those of each collection, see `_references`.
    """
    named = references[write.after["collection"]]
    if not named or not write.changes("attributes", "collection"):
        return
    for name, key in named:
        code = write.after["attributes"].get(name)
        if isinstance(code, str):
            yield name, key, code


def _place_of(state: ItemData) -> tuple[str, str]:
    return state["collection"], state["code"]


def _references(collection: Collection) -> set[tuple[str, str]]:
    """Return the attributes that refer to codes, with the collections of those."""
    return {pair for schema in collection.schemas for pair in schema.references.items()}


def _check_departures(writes: Iterable[Write], errors: dict[str, ItemErrors]) -> None:
    """Find items that leave a collection in which others point at them."""
    leaving = [w.id for w in writes if w.before and w.changes("collection")]
    if not leaving:
        return
    pointing = Q(parent__in=leaving) | Q(replaced_by__in=leaving)
    staying = Item.objects.filter(pointing).exclude(pk__in=leaving)
    for referrer in staying.values("pk", "parent_id", "replaced_by_id"):
        message = f"The item “{referrer['pk']}” refers to it in its own collection."
        for target in (referrer["parent_id"], referrer["replaced_by_id"]):
            if target in leaving:
                errors[target]["collection"] = [message]


def _check_codes_given_up(
    writes: Several[Write], errors: dict[str, ItemErrors]
) -> None:
    """Find items that give up a code by which attributes refer to them."""
    own = {write.id: write for write in writes}
    taken = {_place_of(write.after) for write in writes}
    given_up = [
        write.id
        for write in writes
        if write.before and write.gives_up_code and _place_of(write.before) not in taken
    ]
    if not given_up:
        return
    # What is written anew is checked as such.
    anew = [write.id for write in writes if write.changes("attributes", "collection")]
    for found in _references_by_code(given_up, but_of=anew):
        target = own[found["target"]]
        name = "collection" if target.changes("collection") else "code"
        message = f"The item “{found['item']}” refers to it by its code."
        errors[target.id][name] = [message]


def _check_circles(writes: Several[Write], errors: dict[str, ItemErrors]) -> None:
    for name in POINTERS:
        moved = [w for w in writes if w.after[name] and w.changes(name)]
        if not moved:
            continue
        above: dict[str, str | None] = {w.id: w.after[name] for w in writes}
        frontier = {str(above[w.id]) for w in moved} - above.keys()
        for _ in range(DEPTH_MAX):
            if not frontier:
                break
            rows = Item.objects.filter(pk__in=frontier)
            above |= dict(rows.values_list("pk", f"{name}_id"))
            reached = {above.get(pk) for pk in frontier} - above.keys()
            frontier = {pk for pk in reached if pk}
        for write in moved:
            if fault := _climb(write.id, above):
                errors[write.id][name] = [fault]


def _climb(start: str, above: Mapping[str, str | None]) -> str:
    """Return what is wrong with the way up from `start`, if anything."""
    at, passed = above.get(start), set()
    for _ in range(DEPTH_MAX):
        # In a circle of others something is wrong with those, not with this one.
        if at is None or at in passed:
            return ""
        if at == start:
            return "An item cannot be above itself."
        passed.add(at)
        at = above.get(at)
    return f"A hierarchy has at most {DEPTH_MAX} levels."


def expect_unreferenced(item_ids: Several[str]) -> None:
    """Raise ItemReferenced with the other items that refer to one of these.

    Locks the items: who is about to refer to them waits, or is waited for.
    """
    lock_wholly(item_ids)
    found = list(references_to(item_ids))
    if found:
        members = {"references": found[:REFERENCES_SHOWN]}
        raise ItemReferenced(members=members)


def references_to(
    item_ids: Several[str], *, limit: int | None = REFERENCES_SHOWN + 1
) -> Iterator[dict[str, str]]:
    """Yield the other items that refer to one of these, and by which field.

    Of each field, and each collection whose attributes refer to them, up to `limit`.
    """
    for name in POINTERS:
        rows = Item.objects.filter(**{f"{name}__in": item_ids})
        for referrer, target in _others(rows, item_ids, limit, "pk", f"{name}_id"):
            yield {"item": referrer, "field": name, "target": target}
    links = ItemLink.objects.filter(target__in=item_ids).exclude(item__in=item_ids)
    ends = links.order_by("item", "target").values_list("item_id", "target_id")
    for referrer, target in ends.iterator() if limit is None else ends[:limit]:
        yield {"item": referrer, "field": "links", "target": target}
    yield from _references_by_code(item_ids, but_of=item_ids, limit=limit)


def referrers(
    item_ids: Several[str], is_outside: Callable[[str], Any]
) -> dict[str, tuple[str, str]]:
    """Return of those that items outside refer to one such item, and its field.

    `is_outside` makes the condition for an item of the column with its id.
    """
    found: dict[str, tuple[str, str]] = {}
    for name in POINTERS:
        pointing = Item.objects.filter(is_outside("pk"), **{f"{name}__in": item_ids})
        for target, referrer in pointing.values_list(f"{name}_id").annotate(Min("pk")):
            found[target] = referrer, name
    links = ItemLink.objects.filter(is_outside("item_id"), target__in=item_ids)
    for target, referrer in links.values_list("target_id").annotate(Min("item_id")):
        found.setdefault(target, (referrer, "links"))
    referring = _referring()
    codes = _codes_of(item_ids) if referring else {}
    for collection in referring:
        for name, key in sorted(_references(collection)):
            if key not in codes:
                continue
            rows = having(collection.key, name, codes[key]).filter(is_outside("pk"))
            for referrer, attributes in rows.values_list("pk", "attributes"):
                found.setdefault(codes[key][attributes[name]], (referrer, name))
    return found


def _others(
    rows: QuerySet[Item], item_ids: Several[str], limit: int | None, *names: str
) -> Iterator[Any]:
    values = rows.exclude(pk__in=item_ids).order_by("pk").values_list(*names)
    return values.iterator() if limit is None else iter(values[:limit])


def _references_by_code(
    item_ids: Several[str],
    *,
    but_of: Several[str],
    limit: int | None = REFERENCES_SHOWN + 1,
) -> Iterator[dict[str, str]]:
    referring = _referring()
    if not referring:
        return
    codes = _codes_of(item_ids)
    for collection in referring:
        for name, key in sorted(_references(collection)):
            if key not in codes:
                continue
            rows = having(collection.key, name, codes[key])
            named = _others(rows, but_of, limit, "pk", "attributes")
            for referrer, attributes in named:
                target = codes[key][attributes[name]]
                yield {"item": referrer, "field": name, "target": target}


def _referring() -> list[Collection]:
    """Return the collections whose attributes refer to codes."""
    return [c for c in Collection.objects.all() if _references(c)]


def _codes_of(item_ids: Several[str]) -> dict[str, dict[str, str]]:
    """Return the ids of these items by collection and code."""
    codes: dict[str, dict[str, str]] = defaultdict(dict)
    targets = Item.objects.filter(pk__in=item_ids)
    for key, code, pk in targets.values_list("collection_id", "code", "pk"):
        codes[key][code or pk] = pk
    return codes


def having(key: str, attribute: str, values: Iterable[Any]) -> QuerySet[Item]:
    """Return the items of a collection whose `attribute` is one of `values`.

    It is annotated as `value`: its name may be that of one of Django's lookups. To be
    read, there are the attributes: SQLite gives the text "1" as if it was a number.
    """
    rows = Item.objects.annotate(value=AttributeValue(attribute, "attributes"))
    return rows.filter(collection=key, value__in=list(values))
