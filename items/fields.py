"""The fields of an item that people edit, each declared once.

Rules, REST serializers, forms and admin, CSV and NDJSON columns, the staging SQL of
imports, filters, the change log with its differences and the search text are made from
this list. To add a plain field, add it to the model with its migration, and here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from items import rules
from items.field_types import IdField, ItemField, TagsField, TextField
from items.search import search_words

if TYPE_CHECKING:
    from items.models import Item

ID = IdField(
    name="id",
    help_text="How other systems name the item. Leave empty to generate one.",
    column_help=(
        "How other systems name the item. An item with this id is updated. "
        "Without an id a new item is created, and its id generated."
    ),
)
# In the order in which pages and files show them.
FIELDS: tuple[ItemField, ...] = (
    ID,
    TextField(
        name="name",
        max_length=rules.NAME_MAX,
        is_required=True,
        is_searched=True,
        column_help="One line. The only column that is required.",
    ),
    TextField(
        name="description",
        max_length=rules.DESCRIPTION_MAX,
        is_multiline=True,
        is_searched=True,
        column_help=(
            "Text of any number of lines. Without the column, items keep theirs."
        ),
    ),
    TagsField(
        name="tags",
        filter_parameter="tag",
        help_text="Words separated by spaces, such as: country europe",
        column_help=(
            "Words separated by spaces. Without the column, items keep theirs."
        ),
    ),
)
# What an item holds beside its id: its state, as the change log keeps it.
STATE_FIELDS = FIELDS[1:]
COLUMN_FIELDS = tuple(field for field in STATE_FIELDS if field.is_column)
SEARCHED_FIELDS = tuple(field for field in STATE_FIELDS if field.is_searched)
FILTERS = {field.filter_parameter: field for field in FIELDS if field.filter_parameter}
# What the catalogue itself records of an item.
READ_ONLY = ("version", "created_at", "updated_at")

# Values by field name. What is absent stays as it is.
type ItemData = dict[str, Any]


class InvalidItem(ValueError):
    """Some fields break their rules: field name to messages."""

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{f}: {' '.join(m)}" for f, m in errors.items()))


def clean(
    raw: Mapping[str, Any], *, partial: bool = False, is_json: bool = False
) -> ItemData:
    """Return the declared fields of `raw` cleaned; an id of None counts as absent.

    Raises InvalidItem with every field that breaks its rule, and with the required
    ones that are missing unless `partial`. Forms and files write every type as text;
    with `is_json` only JSON's own types are accepted.
    """
    data: ItemData = {}
    errors: dict[str, list[str]] = {}
    for field in FIELDS:
        if field.name in raw:
            cleaner = field.clean_json if is_json else field.clean
            try:
                data[field.name] = cleaner(raw[field.name])
            except ValueError as error:
                errors[field.name] = [str(error)]
        elif field.is_required and not partial:
            errors[field.name] = ["This field is required."]
    if errors:
        raise InvalidItem(errors)
    if data.get(ID.name, "") is None:
        del data[ID.name]
    return data


def empty_state() -> ItemData:
    return {field.name: field.empty() for field in STATE_FIELDS}


def read_state(item: "Item") -> ItemData:
    return {field.name: field.read(item) for field in STATE_FIELDS}


def search_text(state: Mapping[str, Any]) -> str:
    """Return what the search looks into; every word has a space before it."""
    texts = (field.to_text(state[field.name]) for field in SEARCHED_FIELDS)
    return "".join(f" {search_words(text)}" for text in texts)
