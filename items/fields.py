"""The fields of an item that people edit, each declared once: see FIELDS below.

Rules, REST serializers, forms and admin, CSV and NDJSON columns, the staging SQL of
imports, filters, the change log with its differences and the search text are made from
that list. To add a plain field, add it to the model with its migration, and there.
The classes are the types of fields: what follows from a declaration. Import files are
staged as text, whatever the type (see `items.imports.staging`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from items import rules
from items.search import search_text, sort_key
from resilient_site.api.unknown_names import UnknownField, find_unknown
from resilient_site.errors import Invalid

if TYPE_CHECKING:
    from items.models import Item, ItemQuerySet

type SerializerField = serializers.Field[Any, Any, Any, Any]

ID_SCHEMA = {
    "oneOf": [
        {"type": "integer", "minimum": 0, "maximum": rules.INTEGER_MAX},
        {
            "type": "string",
            "pattern": rules.ID_PATTERN,
            "minLength": 1,
            "maxLength": rules.ID_MAX,
        },
    ],
    "description": 'A whole number, or text. `7` and `"7"` are the same id.',
}


_is_integer = re.compile(r"0|[1-9][0-9]{0,15}").fullmatch


def public_id(item_id: str) -> int | str:
    """Return the id as JSON shows it: a whole number stays a number."""
    if _is_integer(item_id) and int(item_id) <= rules.INTEGER_MAX:
        return int(item_id)
    return item_id


@extend_schema_field(ID_SCHEMA)
class IdSerializerField(serializers.Field):  # type: ignore[type-arg]
    def to_representation(self, value: str) -> int | str:
        return public_id(value)

    def to_internal_value(self, data: Any) -> str:
        return rules.clean_id(data)


class CleanedFormField(forms.CharField):
    """Form field that applies the rule of an item field."""

    def __init__(self, field: "ItemField") -> None:
        self.field = field
        super().__init__(
            strip=False,
            required=field.is_required,
            label=field.label,
            help_text=field.help_text,
            widget=field.widget,
        )

    def clean(self, value: Any) -> Any:
        try:
            return self.field.clean(super().clean(value))
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str | None) else self.field.to_text(value)


@dataclass(frozen=True, kw_only=True)
class ItemField:
    """Declaration of a field: its name in REST, in files and as a model field."""

    name: str
    help_text: str = ""
    # For the table of columns on the import page.
    column_help: str
    is_required: bool = False
    # Whether the search looks into it.
    is_searched: bool = False
    # The query parameter that filters lists by it; empty: none.
    filter_parameter: str = ""
    filter_help: str = "Values of which the items must have one."

    # Whether the value is a list of words rather than one text.
    is_list: ClassVar[bool] = False
    # Whether it is a column of the table of items rather than a relation.
    is_column: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def widget(self) -> forms.Widget:
        return forms.TextInput({"size": 60})

    def serializer_field(self, **options: Any) -> SerializerField:
        raise NotImplementedError

    def read(self, item: "Item") -> Any:
        return getattr(item, self.name)

    def empty(self) -> Any:
        return ""

    def clean(self, value: Any) -> Any:
        """Return the value as it is stored; raise ValueError if it breaks the rule."""
        raise NotImplementedError

    def clean_json(self, value: Any) -> Any:
        """Clean a value from REST, where text from a file does not stand for others."""
        return self.clean(value)

    def to_text(self, value: Any) -> str:
        """Return the value as CSV, forms and the staging table write it."""
        return str(value)

    def merge(self, kept: Any, dropped: Any) -> Any:
        """Return the value of an item after another one was merged into it."""
        return kept or dropped

    def parse_filter(self, values: Sequence[str]) -> tuple[str, ...]:
        """Return the values of the query parameter; raise ValueError."""
        return tuple(self.clean(value) for value in values if value)

    def filter(self, rows: "ItemQuerySet", values: Sequence[str]) -> "ItemQuerySet":
        return rows.filter(**{f"{self.name}__in": values}) if values else rows


@dataclass(frozen=True, kw_only=True)
class TextField(ItemField):
    """Text: one line, or any number of lines."""

    max_length: int
    is_multiline: bool = False

    @property
    def widget(self) -> forms.Widget:
        if self.is_multiline:
            return forms.Textarea({"rows": 8, "dir": "auto"})
        return forms.TextInput(
            {"maxlength": self.max_length, "size": 60, "dir": "auto"}
        )

    def serializer_field(self, **options: Any) -> SerializerField:
        options = {
            "max_length": self.max_length,
            "required": self.is_required,
        } | options
        if self.is_required:
            return serializers.RegexField(r"^\s*[^\s]", min_length=1, **options)
        return serializers.CharField(allow_blank=True, **options)

    def clean(self, value: Any) -> str:
        if self.is_multiline:
            return rules.clean_text(value, max_length=self.max_length)
        return rules.clean_line(
            value, max_length=self.max_length, required=self.is_required
        )


@dataclass(frozen=True, kw_only=True)
class IdField(ItemField):
    """The id: generated where none is given, and never changed."""

    @property
    def widget(self) -> forms.Widget:
        return forms.TextInput({"maxlength": rules.ID_MAX, "size": 40})

    def serializer_field(self, **options: Any) -> SerializerField:
        return IdSerializerField(**{"required": False} | options)

    def clean(self, value: Any) -> str | None:
        """Return None where no id is given."""
        return None if value is None or value == "" else rules.clean_id(value)

    def clean_json(self, value: Any) -> str | None:
        if value == "":
            raise ValueError("Must not be empty.")
        return self.clean(value)


@dataclass(frozen=True, kw_only=True)
class TagsField(ItemField):
    """Tags: a relation, written as words with spaces between."""

    is_list: ClassVar[bool] = True
    is_column: ClassVar[bool] = False

    def serializer_field(self, **options: Any) -> SerializerField:
        tag = serializers.RegexField(rules.TAG_PATTERN, max_length=rules.TAG_MAX)
        options = {"max_length": rules.TAGS_MAX, "required": False} | options
        return serializers.ListField(child=tag, **options)

    def read(self, item: "Item") -> list[str]:
        return item.tag_names()

    def empty(self) -> list[str]:
        return []

    def clean(self, value: Any) -> list[str]:
        return rules.clean_tags(value)

    def clean_json(self, value: Any) -> list[str]:
        if isinstance(value, str):
            raise ValueError("Must be a list of tags.")
        return self.clean(value)

    def to_text(self, value: Any) -> str:
        return " ".join(value)

    def merge(self, kept: list[str], dropped: list[str]) -> list[str]:
        """Raise ValueError if both have more tags together than an item may have."""
        return self.clean([*kept, *dropped])

    def parse_filter(self, values: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.clean([value for value in values if value]))

    def filter(self, rows: "ItemQuerySet", values: Sequence[str]) -> "ItemQuerySet":
        return rows.tagged(values)


# --- the declarations

ID = IdField(
    name="id",
    help_text="How other systems name the item. Leave empty to generate one.",
    column_help=(
        f"How other systems name the item: up to {rules.ID_MAX} characters. An item "
        "with this id is updated. Without an id a new item is created, and its id "
        "generated."
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
    TagsField(
        name="tags",
        filter_parameter="tag",
        filter_help="Tags the items must all have.",
        help_text="Words separated by spaces, such as: country europe",
        column_help=(
            f"Up to {rules.TAGS_MAX} words of up to {rules.TAG_MAX} characters, "
            "separated by spaces. Without the column, items keep theirs."
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
# What is derived from the state, see `search_columns`.
SEARCH_COLUMNS = ("search_text", "sort_key")

# Bound once: an import cleans millions of rows.
_CLEANERS = [(field.name, field.clean, field.is_required) for field in FIELDS]
_JSON_CLEANERS = [(field.name, field.clean_json, field.is_required) for field in FIELDS]
# A client may send back what it has read.
_KNOWN = {*(field.name for field in FIELDS), *READ_ONLY}
_SEARCHED_TEXTS = [(field.name, field.to_text) for field in SEARCHED_FIELDS]

# Values by field name. What is absent stays as it is.
type ItemData = dict[str, Any]


def clean(
    raw: Any,
    *,
    partial: bool = False,
    is_json: bool = False,
    ignores_unknown: bool = False,
) -> ItemData:
    """Return the declared fields of `raw` cleaned; an id of None counts as absent.

    Raises Invalid with every field that breaks its rule, and with the required ones
    that are missing unless `partial`. Forms and files write every type as text; with
    `is_json` only JSON's own types are accepted, and unknown members are errors.
    """
    if not isinstance(raw, Mapping):
        message = "An item must be a JSON object."
        raise Invalid(errors={"non_field_errors": [message]})
    data: ItemData = {}
    errors: dict[str, list[str]] = {}
    for name, cleaner, is_required in _JSON_CLEANERS if is_json else _CLEANERS:
        if name in raw:
            try:
                data[name] = cleaner(raw[name])
            except ValueError as error:
                errors[name] = [str(error)]
        elif is_required and not partial:
            errors[name] = ["This field is required."]
    if is_json and not ignores_unknown and not raw.keys() <= _KNOWN:
        raise UnknownField(errors=find_unknown(raw, _KNOWN) | errors)
    if errors:
        raise Invalid(errors=errors)
    if data.get(ID.name, "") is None:
        del data[ID.name]
    return data


def empty_state() -> ItemData:
    return {field.name: field.empty() for field in STATE_FIELDS}


def search_columns(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that the search and the order by name look into."""
    texts = [to_text(state[name]) for name, to_text in _SEARCHED_TEXTS]
    return {"search_text": search_text(*texts), "sort_key": sort_key(state["name"])}
