"""The fields of an item that people edit, each declared once: see FIELDS below.

Rules, REST serializers, forms and admin, CSV and NDJSON columns, the staging SQL of
imports, filters, the change log with its differences and the search text are made from
that list. To add a plain field, add it to the model with its migration, and there.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rest_framework import serializers

from items import inputs, rules
from items.field_types import (
    ChoiceField,
    CodeField,
    CollectionField,
    DateField,
    IdField,
    ItemField,
    JsonField,
    LinkSerializer,
    LinksField,
    ReferenceField,
    TagsField,
    TextField,
)
from items.search import search_text, sort_key
from resilient_site.api.json_format import merge_patch
from resilient_site.api.members import clean_members

ID = IdField(
    name="id",
    help_text="How other systems name the item. Leave empty to generate one.",
    column_help=(
        f"How other systems name the item: up to {rules.ID_MAX} characters. An item "
        "with this id is updated. Without an id it is the item with this code in its "
        "collection, else a new one."
    ),
)
# In the order in which pages and files show them.
FIELDS: tuple[ItemField, ...] = (
    ID,
    CollectionField(
        name="collection",
        filter_parameter="collection",
        filter_help="Keys of collections; the items are in one of them.",
        help_text="The key of its code list. Leave empty for “general”.",
        column_help=(
            f"The key of a collection. Without one, a new item is in “{rules.GENERAL}”."
        ),
    ),
    CodeField(
        name="code",
        max_length=rules.CODE_MAX,
        is_searched=True,
        filter_parameter="code",
        filter_help="Codes of which the items must have one.",
        help_text="What the item is called in its collection. In “general” its id.",
        column_help=(
            f"One line of up to {rules.CODE_MAX} characters, which only one item of "
            f"its collection has. In “{rules.GENERAL}” it is the id."
        ),
    ),
    TextField(
        name="name",
        max_length=rules.NAME_MAX,
        is_required=True,
        is_searched=True,
        column_help=(
            f"One line of up to {rules.NAME_MAX} characters, required for a new item."
        ),
    ),
    TextField(
        name="description",
        max_length=rules.DESCRIPTION_MAX,
        is_multiline=True,
        is_searched=True,
        column_help=(
            f"Text of any number of lines, up to {rules.DESCRIPTION_MAX:,} characters. "
            "Without the column, items keep theirs."
        ),
    ),
    JsonField(
        name="labels",
        cleaner=rules.clean_labels,
        container=dict,
        is_searched=True,
        make_serializer_field=lambda **options: serializers.DictField(
            child=serializers.CharField(max_length=rules.NAME_MAX), **options
        ),
        help_text='Names in other languages, as JSON: {"de": "Sechskantschraube"}',
        make_form_field=inputs.LabelsField,
        form_help="Its names in other languages, by language tag: de, pt-BR, zh-Hant.",
        column_help="Names by language, as a JSON object.",
    ),
    JsonField(
        name="aliases",
        cleaner=rules.clean_aliases,
        container=list,
        is_searched=True,
        make_serializer_field=lambda **options: serializers.ListField(
            child=serializers.CharField(max_length=rules.NAME_MAX),
            max_length=rules.ALIASES_MAX,
            **options,
        ),
        help_text='Other names to find it by, as JSON: ["Hexagon bolt"]',
        make_form_field=inputs.LinesField,
        form_help="Other names to find it by, one per line.",
        column_help="Other names, as a JSON array.",
    ),
    JsonField(
        name="attributes",
        cleaner=rules.clean_attributes,
        container=dict,
        make_serializer_field=serializers.DictField,
        help_text='Values by name, as JSON: {"length_mm": 40}',
        make_form_field=inputs.AttributesField,
        form_help=(
            "Numbers, true and false are stored as such; “12” in quotes is text."
        ),
        column_help="Values by name, as a JSON object.",
    ),
    TagsField(
        name="tags",
        filter_parameter="tag",
        filter_help="Tags the items must all have.",
        help_text='Separated by spaces; with quotes: country "dark red"',
        column_help=(
            f"Up to {rules.TAGS_MAX} tags of up to {rules.TAG_MAX} characters, "
            "separated by spaces or commas, and between double quotes if they have "
            "some themselves. Without the column, items keep theirs."
        ),
    ),
    ChoiceField(
        name="status",
        choices=rules.STATUSES,
        default=rules.ACTIVE,
        filter_parameter="status",
        help_text="Whether the code is to be used.",
        column_help=f"One of {', '.join(rules.STATUSES)}; empty: {rules.ACTIVE}.",
    ),
    DateField(
        name="valid_from",
        help_text="The first day on which the code is valid.",
        column_help="The first valid day, as 2026-12-31.",
    ),
    DateField(
        name="valid_to",
        help_text="The last day on which the code is valid.",
        column_help="The last valid day, as 2026-12-31.",
    ),
    ReferenceField(
        name="parent",
        filter_parameter="parent",
        filter_help="Ids of items; the items are directly below one of them.",
        help_text="The id of the item above it, in the same collection.",
        column_help="The id of the item above it, in the same collection.",
    ),
    ReferenceField(
        name="replaced_by",
        help_text="The id of its successor, in the same collection.",
        column_help="The id of its successor, in the same collection.",
    ),
    LinksField(
        name="links",
        cleaner=rules.clean_links,
        container=list,
        make_serializer_field=partial(LinkSerializer, many=True),
        help_text=(
            "Relations to items of any collection, as JSON: "
            '[{"relation": "exactMatch", "target": "bolt.8"}]'
        ),
        make_form_field=inputs.LinksField,
        form_help="Items of any collection that mean the same, more or less of it.",
        column_help="Relations to other items, as a JSON array.",
    ),
)
# What an item holds beside its id: its state, as the change log keeps it.
STATE_FIELDS = FIELDS[1:]
COLUMN_FIELDS = tuple(field for field in STATE_FIELDS if field.is_column)
SUMMARY_FIELDS = tuple(
    field
    for field in STATE_FIELDS
    if field.name in ("collection", "code", "name", "status")
)
SEARCHED_FIELDS = tuple(field for field in STATE_FIELDS if field.is_searched)
# What the search text is made of: some attributes too.
SEARCHED = (*(field.name for field in SEARCHED_FIELDS), "attributes")
FILTERS = {field.filter_parameter: field for field in FIELDS if field.filter_parameter}
# What the catalogue itself records of an item.
READ_ONLY = ("version", "created_at", "updated_at")
# What is derived from the state, see `search_columns`.
SEARCH_COLUMNS = ("search_text", "sort_key")

# Bound once: an import cleans millions of rows.
_CLEANERS = {field.name: field.clean for field in FIELDS}
_JSON_CLEANERS = {field.name: field.clean_json for field in FIELDS}
_REQUIRED = {field.name for field in FIELDS if field.is_required}
# Those of which None means that none is given.
ABSENT_IF_NONE = ("id", "collection", "code")
# A client may send back what it has read.
_KNOWN = {*(field.name for field in FIELDS), *READ_ONLY}
_SEARCHED_TEXTS = [(field.name, field.to_search) for field in SEARCHED_FIELDS]

_EMPTY = {field.name: field.empty() for field in STATE_FIELDS}
# Each state has its own of these.
_CONTAINERS = [(name, type(v)) for name, v in _EMPTY.items() if v == [] or v == {}]
_SHOWN_OTHERWISE = [
    (field.name, field.public)
    for field in STATE_FIELDS
    if type(field).public is not ItemField.public
]

# Values by field name. What is absent stays as it is.
type ItemData = dict[str, Any]


def clean(
    raw: Any,
    *,
    partial: bool = False,
    is_json: bool = False,
    ignores_unknown: bool = False,
) -> ItemData:
    """Return the declared fields of `raw` cleaned; an id or code of None is absent.

    Raises Invalid with every field that breaks its rule, and with the required ones
    that are missing unless `partial`. Forms and files write every type as text; with
    `is_json` only JSON's own types are accepted, and unknown members are errors.
    """
    data: ItemData = clean_members(
        raw,
        _JSON_CLEANERS if is_json else _CLEANERS,
        what="An item",
        required=() if partial else _REQUIRED,
        known=_KNOWN if is_json and not ignores_unknown else None,
    )
    for name in ABSENT_IF_NONE:
        if name in data and data[name] is None:
            del data[name]
    return data


def public_state(state: ItemData | None, item_id: str) -> ItemData | None:
    """Return a state of the change log as REST shows it.

    That of an earlier release has fewer fields, which were empty then.
    """
    if state is None:
        return None
    state = empty_state() | {"code": item_id} | state
    shown = {name: state[name] for name in _EMPTY}
    for name, public in _SHOWN_OTHERWISE:
        if shown[name]:
            shown[name] = public(shown[name])
    return shown


def empty_state() -> ItemData:
    return _EMPTY | {name: make() for name, make in _CONTAINERS}


def replacement(data: ItemData) -> ItemData:
    """Return `data` with all else empty; an item keeps its collection and code."""
    empty = {f.name: f.empty() for f in STATE_FIELDS if f.name not in ABSENT_IF_NONE}
    return empty | data


def patched(shown: ItemData, patch: Any) -> Any:
    """Return the members that a JSON merge patch makes of those that REST shows.

    What it removes is empty then; an item keeps its collection and code.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged, empty = merge_patch(shown, patch), replacement({})
    return {name: merged.get(name, empty.get(name)) for name in patch}


def search_columns(
    state: Mapping[str, Any], searchable: Sequence[str] = ()
) -> dict[str, str]:
    """Return the columns that the search and the order by name look into.

    `searchable` are the names of the attributes that the search looks into too.
    """
    texts = [text for name, read in _SEARCHED_TEXTS if (text := read(state[name]))]
    for name in searchable:
        value = state["attributes"].get(name, "")
        texts.append(" ".join(map(str, value if isinstance(value, list) else [value])))
    return {"search_text": search_text(*texts), "sort_key": sort_key(state["name"])}
