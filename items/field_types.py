"""The types of fields: what follows from a declaration in `items.fields`.

Import files are staged as text, whatever the type (see `items.bulk.staging`).
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import orjson
from django import forms
from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from items import rules
from resilient_site.api import json_format

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
        try:
            return rules.clean_id(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class CleanedFormField(forms.CharField):
    """Form field that applies the rule of an item field."""

    # The template that shows it, if not that of all others.
    template = ""
    # Whether it always has a value, although none has to be sent.
    is_chosen = False

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


class ReferenceFormField(CleanedFormField):
    """Form field for an id, in which a code may be typed."""

    # Returns the id of what has this id or code, else the text itself.
    find_id: Callable[[str], str] = str

    def clean(self, value: Any) -> Any:
        return super().clean(self.find_id(value or ""))


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

    # Whether the value is shown as a list of words rather than one text.
    is_list: ClassVar[bool] = False
    # Whether the value is the id of another item.
    is_reference: ClassVar[bool] = False
    # Whether it is a column of the table of items rather than a relation.
    is_column: ClassVar[bool] = True
    # How the database stores it, see `items.bulk.staging`.
    kind: ClassVar[Literal["text", "date", "key", "json"]] = "text"

    @property
    def column(self) -> str:
        """The column, and the attribute of the model that holds its value."""
        return f"{self.name}_id" if self.kind == "key" else self.name

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def widget(self) -> forms.Widget:
        return forms.TextInput({"size": 60})

    def form_field(self) -> forms.Field:
        """Return the input of the pages; that of the admin is always a text."""
        return CleanedFormField(self)

    def serializer_field(self, **options: Any) -> SerializerField:
        raise NotImplementedError

    def read(self, item: "Item") -> Any:
        return getattr(item, self.column)

    def public(self, value: Any) -> Any:
        """Return the value as REST and NDJSON show it."""
        return value

    def shown(self, value: Any) -> Any:
        """Return the value as pages show it: a list of texts if it is one."""
        return value

    def empty(self) -> Any:
        return ""

    def clean(self, value: Any) -> Any:
        """Return the value as it is stored; raise ValueError if it breaks the rule."""
        raise NotImplementedError

    def clean_json(self, value: Any) -> Any:
        """Clean a value from REST, where text from a file does not stand for others."""
        return self.clean(value)

    def to_text(self, value: Any) -> str:
        """Return the value as CSV and forms write it."""
        return "" if value is None else str(value)

    def to_staging(self, value: Any) -> str:
        """Return the value as the staging table has it."""
        return self.to_text(value)

    def from_staging(self, text: str) -> Any:
        return orjson.loads(text) if self.kind == "json" else text or self.empty()

    def to_search(self, value: Any) -> str:
        """Return the words that the search finds it by."""
        return self.to_text(value)

    def merge(self, kept: Any, dropped: Any) -> Any:
        """Return the value of an item after another one was merged into it."""
        return kept or dropped

    def parse_filter(self, values: Sequence[str]) -> tuple[str, ...]:
        """Return the values of the query parameter; raise ValueError."""
        return tuple(self.clean(value) for value in values if value.strip())

    def filter(self, rows: "ItemQuerySet", values: Sequence[str]) -> "ItemQuerySet":
        return rows.filter(**{f"{self.column}__in": values}) if values else rows


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
    """Tags: a relation, written with spaces between, and quotes where one has any."""

    is_list: ClassVar[bool] = True
    is_column: ClassVar[bool] = False
    kind: ClassVar[Literal["json"]] = "json"

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
        return rules.join_tags(value)

    def to_staging(self, value: Any) -> str:
        # As the databases make an array of names: SQLite compares texts.
        return json.dumps(value, ensure_ascii=False)

    def merge(self, kept: list[str], dropped: list[str]) -> list[str]:
        """Raise ValueError if both have more tags together than an item may have."""
        return self.clean([*kept, *dropped])

    def parse_filter(self, values: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.clean([value for value in values if value]))

    def filter(self, rows: "ItemQuerySet", values: Sequence[str]) -> "ItemQuerySet":
        return rows.tagged(values)


@dataclass(frozen=True, kw_only=True)
class CodeField(TextField):
    """The code; where none is given, the id has it."""

    def read(self, item: "Item") -> str:
        return item.code or item.pk  # the release before this one writes none

    def clean(self, value: Any) -> str | None:  # type: ignore[override]
        line = None if value is None else super().clean(value)
        return unicodedata.normalize("NFC", line) if line else None  # as ids are

    def to_search(self, value: str) -> str:
        return "" if _is_uuid(value) else value


@dataclass(frozen=True, kw_only=True)
class CollectionField(ItemField):
    """The key of a collection; where none is given, an item keeps its own."""

    kind: ClassVar[Literal["key"]] = "key"

    def serializer_field(self, **options: Any) -> SerializerField:
        options = {"max_length": rules.KEY_MAX, "required": False} | options
        return serializers.RegexField(rules.KEY_PATTERN, **options)

    def empty(self) -> str:
        return rules.GENERAL

    def clean(self, value: Any) -> str | None:
        return None if value is None or value == "" else rules.clean_key(value)


@dataclass(frozen=True, kw_only=True)
class ChoiceField(ItemField):
    """One of some words, the default of which stands for an empty one."""

    choices: tuple[str, ...]
    default: str

    def form_field(self) -> forms.Field:
        field = CleanedFormField(self)
        field.is_chosen = True
        return field

    @property
    def widget(self) -> forms.Widget:
        return forms.Select(choices=[(c, c.capitalize()) for c in self.choices])

    def serializer_field(self, **options: Any) -> SerializerField:
        options = {"required": False} | options
        return serializers.ChoiceField(self.choices, **options)

    def empty(self) -> str:
        return self.default

    def clean(self, value: Any) -> str:
        text = value.strip().lower() if isinstance(value, str) else value
        return rules.clean_choice(text or self.default, self.choices)

    def clean_json(self, value: Any) -> str:
        return rules.clean_choice(value, self.choices)


@dataclass(frozen=True, kw_only=True)
class DateField(ItemField):
    """A day, as ISO 8601 writes it, or none."""

    kind: ClassVar[Literal["date"]] = "date"

    @property
    def widget(self) -> forms.Widget:
        return forms.DateInput({"type": "date"})

    def serializer_field(self, **options: Any) -> SerializerField:
        options = {"required": False, "allow_null": True} | options
        return serializers.DateField(**options)

    def read(self, item: "Item") -> str | None:
        value = super().read(item)
        return str(value) if value else None

    def empty(self) -> None:
        return None

    def clean(self, value: Any) -> str | None:
        day = rules.clean_date(value)
        return day.isoformat() if day else None


@dataclass(frozen=True, kw_only=True)
class ReferenceField(ItemField):
    """The id of another item of the same collection, or none."""

    is_reference: ClassVar[bool] = True
    kind: ClassVar[Literal["key"]] = "key"

    def form_field(self) -> forms.Field:
        return ReferenceFormField(self)

    def serializer_field(self, **options: Any) -> SerializerField:
        return IdSerializerField(**{"required": False, "allow_null": True} | options)

    def public(self, value: str | None) -> int | str | None:
        return None if value is None else public_id(value)

    def merge(self, kept: Any, dropped: Any) -> Any:
        return kept  # an item's place in the hierarchy is its own

    def empty(self) -> None:
        return None

    def clean(self, value: Any) -> str | None:
        return None if value is None or value == "" else rules.clean_id(value)

    def parse_filter(self, values: Sequence[str]) -> tuple[str, ...]:
        return tuple(rules.clean_id(value) for value in values if value)


@dataclass(frozen=True, kw_only=True)
class JsonField(ItemField):
    """A list or an object, which files and forms write as JSON."""

    is_list: ClassVar[bool] = True
    kind: ClassVar[Literal["json"]] = "json"
    cleaner: Callable[[Any], Any]
    container: type
    make_serializer_field: Callable[..., SerializerField]
    # For the pages; unless given, JSON is typed there.
    make_form_field: Callable[["JsonField"], forms.Field] | None = None
    form_help: str = ""

    @property
    def widget(self) -> forms.Widget:
        return forms.Textarea({"rows": 3, "spellcheck": "false", "class": "code"})

    def form_field(self) -> forms.Field:
        if self.make_form_field is None:
            return super().form_field()
        field = self.make_form_field(self)
        field.help_text = self.form_help
        return field

    def serializer_field(self, **options: Any) -> SerializerField:
        return self.make_serializer_field(**{"required": False} | options)

    def shown(self, value: Any) -> list[str]:
        if not isinstance(value, dict):
            return list(value or ())
        return [
            f"{name}: {', '.join(map(str, one)) if isinstance(one, list) else one}"
            for name, one in value.items()
        ]

    def empty(self) -> Any:
        return self.container()

    def clean(self, value: Any) -> Any:
        return self.cleaner(rules.clean_json(value))

    def clean_json(self, value: Any) -> Any:
        return self.cleaner(value)

    def to_text(self, value: Any) -> str:
        return json_format.encode(value).decode() if value else ""

    def to_staging(self, value: Any) -> str:
        return json.dumps(value)  # as Django stores it: SQLite compares texts

    def to_search(self, value: Any) -> str:
        return " ".join(value.values() if isinstance(value, dict) else value)

    def merge(self, kept: Any, dropped: Any) -> Any:
        """Raise ValueError if both have more together than an item may have."""
        if isinstance(kept, dict):
            return self.clean_json(dropped | kept)
        return self.clean_json([*kept, *dropped])


@dataclass(frozen=True, kw_only=True)
class LinksField(JsonField):
    def shown(self, value: Any) -> list[str]:
        return [f"{link['relation']}: {link['target']}" for link in value or ()]

    def public(self, value: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [link | {"target": public_id(link["target"])} for link in value]


class LinkSerializer(serializers.Serializer[Any]):
    """A relation of SKOS to another item."""

    relation = serializers.ChoiceField(rules.RELATIONS)
    target = IdSerializerField()


_is_uuid = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
