"""What the page of an item shows, with the names of what it refers to."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from django.db.models import QuerySet

from items import fields, relations, rules
from items.catalogue import item_tag
from items.collections.editing import COLLECTIONS
from items.collections.schema import AttributeSchema, compile_schema
from items.fields import ItemData
from items.integrity import POINTERS, references_to
from items.models import ChangeBatch, Collection, Item, ItemChange

# Links of which the page has the names of the targets; of more it has the ids.
NAMED_MAX = 50
SHOWN = 20
# What the page shows in places of their own; all other fields are facts.
PLACED = ("name", "description", "labels", "aliases", "attributes", "links")
FACTS = [field for field in fields.STATE_FIELDS if field.name not in PLACED]
# Those that the head of the page has, beside the name.
AT_TOP = ("code", "status")
RELATION_NAMES = {
    "exactMatch": "Exact match",
    "closeMatch": "Close match",
    "broadMatch": "Broader",
    "narrowMatch": "Narrower",
    "relatedMatch": "Related",
}


def name_batches(changes: Iterable[ItemChange]) -> None:
    """Set `part_of`, the batch, of those that are part of one."""
    changes = [change for change in changes if change.batch]
    batches = ChangeBatch.objects.in_bulk({change.batch for change in changes})
    for change in changes:
        vars(change)["part_of"] = batches.get(change.batch)


class ShownAttribute(NamedTuple):
    name: str
    title: str
    values: list[str]
    # What it refers to, if that is known.
    item: Item | None = None

    @property
    def url(self) -> str:
        """The address that the value is."""
        first = self.values[0] if len(self.values) == 1 else ""
        return first if first.startswith(("https://", "http://")) else ""


class ItemPage:
    """The state of an item as its page shows it; that of a deleted one without names.

    What the item refers to costs one query, and none if there is nothing.
    """

    def __init__(self, state: ItemData, item: Item | None) -> None:
        self.state = state
        rows = Collection.objects.filter(pk=state["collection"])
        self.collection = cast(Collection, item.collection) if item else rows.first()
        schema = self.collection.attributes if self.collection else compile_schema({})
        named = _named(item, schema) if item else {}
        above, after = (
            relations.chain(item, pointer, named) if item else []
            for pointer in POINTERS
        )
        self.ancestors, self.successors = above[::-1], after
        self.links = [
            (
                RELATION_NAMES.get(link["relation"], link["relation"]),
                link["target"],
                named.get(link["target"]),
            )
            for link in state["links"]
        ]
        by_code = {(to.collection_id, to.code or to.pk): to for to in named.values()}
        referred = {
            name: by_code[place]
            for name, place in _places(schema, state["attributes"])
            if place in by_code
        }
        self.attributes = list(shown_attributes(schema, state["attributes"], referred))
        self.facts = [
            (field, field.shown(state.get(field.name)))
            for field in FACTS
            if (state.get(field.name) or field.name == "tags")
            and not (item and field.name in AT_TOP)
        ]
        self.named = list(named.values())
        self.tags = [COLLECTIONS, *(item_tag(pk) for pk in named)]

    @property
    def is_current(self) -> bool:
        return bool(self.state["status"] == rules.ACTIVE)


def shown_attributes(
    schema: AttributeSchema,
    attributes: Mapping[str, Any],
    items: Mapping[str, Item] = {},
) -> Iterable[ShownAttribute]:
    """Yield the attributes in the order of the schema, then those it does not know."""
    names = [name for name in schema.properties if name in attributes]
    for name in [*names, *(n for n in attributes if n not in schema.properties)]:
        value = attributes[name]
        texts = [_text(one) for one in (value if isinstance(value, list) else [value])]
        yield ShownAttribute(name, schema.title(name), texts, items.get(name))


def _text(value: Any) -> str:
    return ("Yes" if value else "No") if isinstance(value, bool) else str(value)


def _named(item: Item, schema: AttributeSchema) -> dict[str, Item]:
    """Return by their ids the items that the page of this one names."""
    parts = [
        Item.objects.filter(relations.is_above(item.pk, pointer))
        for pointer in POINTERS
        if getattr(item, f"{pointer}_id")
    ]
    if targets := [link["target"] for link in item.links[:NAMED_MAX]]:
        parts.append(Item.objects.filter(pk__in=targets))
    for _, (key, code) in _places(schema, item.attributes):
        parts.append(Item.objects.with_codes(key, [code]))
    if not parts:
        return {}
    # Each by an index of its own.
    first, *others = (part.values("pk") for part in parts)
    return _by_id(first.union(*others))


def _places(
    schema: AttributeSchema, attributes: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the attributes that refer to an item, with its collection and code."""
    for name, key in schema.references.items():
        if isinstance(code := attributes.get(name), str):
            yield name, (key, code)


def _by_id(ids: Iterable[str] | QuerySet[Item, Any]) -> dict[str, Item]:
    columns = "name", "code", "collection", "status", *POINTERS
    return {item.pk: item for item in Item.objects.filter(pk__in=ids).only(*columns)}


class Relations:
    """What is directly below an item, and what else refers to it: a few of each."""

    def __init__(self, item: Item) -> None:
        rows = Item.objects.filter(parent=item).order_by("sort_key", "id")
        self.children = list(rows.only("id", "name", "code", "status")[: SHOWN + 1])
        self.has_more_children = len(self.children) > SHOWN
        del self.children[SHOWN:]
        self.references, self.has_more_references = references_of(item, {"parent"})


def references_of(
    item: Item, left_out: Iterable[str] = ()
) -> tuple[list[tuple[Item, list[str]]], bool]:
    """Return items that refer to this one with the fields, and if there are more."""
    by_id: dict[str, list[str]] = {}
    for found in references_to([item.pk]):
        if found["field"] not in left_out:
            label = found["field"].replace("_", " ").capitalize()
            by_id.setdefault(found["item"], []).append(label)
    ids = list(by_id)[:SHOWN]
    items = _by_id(ids)
    shown = [(items[pk], sorted(set(by_id[pk]))) for pk in ids if pk in items]
    return shown, len(by_id) > SHOWN
