"""Form fields of the pages for values that are more than one text.

Each shows its value as texts, and reads the same value from these texts. What was not
edited is kept as it is stored, also where an input cannot show all of it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import zip_longest
from math import ceil
from typing import Any, NamedTuple, cast

import orjson
from django import forms
from django.core.exceptions import ValidationError

from items import rules
from items.collections.schema import AttributeSchema
from items.field_types import CleanedFormField, ItemField
from resilient_site.api import json_format

# Buttons that change the form itself: nothing is saved.
ADD, REMOVE, CHANGE = "add", "remove", "change"
# Names the collection whose attributes the form has inputs for.
ATTRIBUTES_OF = "attributes-of"
ATTRIBUTES = "attributes"
PREFIX = f"{ATTRIBUTES}."
# A text that may be longer has an input of several lines.
LONG = 500
_is_number = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?").fullmatch
_is_whole = re.compile(r"[-+]?[0-9]{1,20}").fullmatch


class Column(NamedTuple):
    """A column of rows of inputs; one with choices always has a value."""

    name: str
    label: str
    choices: Sequence[tuple[str, str]] = ()
    attrs: Mapping[str, str] = {}


class RowsWidget(forms.Widget):
    """Rows of inputs: each column is sent once for each row."""

    use_fieldset = True
    # The id of the suggestions for one of its columns.
    datalist = ""

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = columns

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[list[str]]:
        sent = (data.getlist(f"{name}-{column.name}") for column in self.columns)
        return [list(row) for row in zip_longest(*sent, fillvalue="")]

    def is_empty(self, row: Sequence[str]) -> bool:
        return not any(
            text.strip()
            for column, text in zip(self.columns, row, strict=True)
            if not column.choices
        )


class BoundRows(forms.BoundField):
    @property
    def rows(self) -> list[list[tuple[Column, str]]]:
        """The rows, of which the last one is always empty."""
        columns = self.field.widget.columns
        texts = [list(row) for row in self.value() or ()]
        if not texts or not self.field.widget.is_empty(texts[-1]):
            first = (
                column.choices[0][0] if column.choices else "" for column in columns
            )
            texts.append(list(first))
        return [list(zip(columns, row, strict=True)) for row in texts]


class RowsField(CleanedFormField):
    """A value as rows of texts; those without a text are none."""

    bound_field_class = BoundRows
    template = "items/_rows.html"
    columns: Sequence[Column]
    what = "row"

    def __init__(self, field: ItemField) -> None:
        super().__init__(field)
        self.widget = RowsWidget(self.columns)

    def clean(self, value: Any) -> Any:
        rows = [row for row in value if not self.widget.is_empty(row)]
        try:
            return self.field.clean_json(self.read(rows))
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def read(self, rows: list[list[str]]) -> Any:
        raise NotImplementedError


class LabelsField(RowsField):
    what = "label"
    columns = (
        Column("language", "Language", attrs={"size": "8"}),
        Column("text", "Label", attrs={"dir": "auto"}),
    )

    def read(self, rows: list[list[str]]) -> dict[str, str]:
        labels: dict[str, str] = {}
        for language, text in rows:
            if not text.strip():
                continue
            if not language.strip():
                raise ValueError(f"“{text}” has no language.")
            tag = rules.clean_language(language)
            if tag in labels:
                raise ValueError(f"There are two labels for “{tag}”.")
            labels[tag] = text
        return labels

    def prepare_value(self, value: Any) -> Any:
        return [*value.items()] if isinstance(value, Mapping) else value


class LinksField(RowsField):
    what = "link"
    columns = (
        Column("relation", "Relation", [(r, r) for r in rules.RELATIONS]),
        Column("target", "Id of the other item"),
    )

    def read(self, rows: list[list[str]]) -> list[dict[str, str]]:
        return [{"relation": kind, "target": target} for kind, target in rows]

    def prepare_value(self, value: Any) -> Any:
        return [
            [one["relation"], one["target"]] if isinstance(one, Mapping) else one
            for one in value or ()
        ]


class AttributesField(RowsField):
    """Attributes that no schema knows, of which the values say their own type."""

    what = "attribute"
    columns = (
        Column("name", "Name", attrs={"spellcheck": "false"}),
        Column("value", "Value", attrs={"dir": "auto"}),
    )

    def read(self, rows: list[list[str]]) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for name, text in rows:
            name = name.strip()
            if not text:
                continue
            if not name:
                raise ValueError(f"The value “{text}” has no name.")
            if name in attributes:
                raise ValueError(f"There are two values of “{name}”.")
            attributes[name] = read_any(text)
        return attributes

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return [[name, show_any(one)] for name, one in value.items()]


class LinesField(CleanedFormField):
    """A list of texts, one on each line."""

    def __init__(self, field: ItemField) -> None:
        super().__init__(field)
        self.widget = forms.Textarea({"rows": 3, "dir": "auto"})

    def clean(self, value: Any) -> Any:
        lines = [line for line in _lines(value or "") if line.strip()]
        try:
            return self.field.clean_json(lines)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value


class BoundAttribute(forms.BoundField):
    def value(self) -> Any:
        """What was typed is shown as it was typed."""
        if self.form.is_bound:
            return self.data
        return show(cast(AttributeField, self.field).declared, self.initial)


class AttributeField(forms.Field):
    """One attribute, as its declaration in the schema says."""

    bound_field_class = BoundAttribute

    def __init__(
        self, label: str, declared: Mapping[str, Any], *, required: bool, stored: Any
    ) -> None:
        self.declared, self.stored = declared, stored
        super().__init__(
            label=label,
            required=required,
            help_text=_help(declared),
            widget=_widget(declared, stored, required=required),
        )

    def clean(self, value: Any) -> Any:
        text = "\n".join(_lines(value or ""))
        found, shown = self.stored, show(self.declared, self.stored)
        if text != shown:
            try:
                read_now = rules.clean_attribute(read(self.declared, text))
            except ValueError as error:
                raise ValidationError(str(error)) from error
            # A browser may write the same time or number in another way.
            found = found if show(self.declared, read_now) == shown else read_now
        if found is None and self.required:
            raise ValidationError(self.error_messages["required"])
        return found


def show(declared: Mapping[str, Any], value: Any) -> str:
    """Return the text of an input for an attribute."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_show_line(one) for one in value)
    if declared.get("format") == "date-time":
        return _local_time(value) or str(value)
    return _show_scalar(value)


def read(declared: Mapping[str, Any], text: str) -> Any:
    """Return the value that the text of an input stands for, None for none.

    Raises ValueError. Whether it conforms to the schema is not looked at.
    """
    if declared["type"] == "array":
        kind = declared.get("items", {}).get("type", "string")
        lines = [line for line in _lines(text) if line.strip()]
        return [_read_line(kind, line) for line in lines] or None
    if not text.strip():
        return None
    value = _read_scalar(declared["type"], text)
    is_time = declared.get("format") == "date-time"
    return _with_offset(value) if is_time else value


def show_any(value: Any) -> str:
    """Return the text that `read_any` makes the value of, on one line."""
    is_plain = isinstance(value, str) and value and "\n" not in value
    if is_plain and read_any(value) == value:
        return str(value)
    return json_format.encode(value).decode()


def read_any(text: str) -> Any:
    """Return what a text says as JSON; text that is no JSON is itself."""
    try:
        value = orjson.loads(text)
        orjson.dumps(value)  # it writes fewer levels than it reads
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return text
    return value


def _lines(text: str) -> list[str]:
    # Forms send line ends as CR LF (HTML, form submission).
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _show_scalar(value: Any) -> str:
    return value if isinstance(value, str) else json_format.encode(value).decode()


def _read_scalar(kind: str, text: str) -> Any:
    stripped = text.strip()
    if kind == "boolean":
        if stripped not in ("true", "false"):
            raise ValueError("Must be yes or no.")
        return stripped == "true"
    if kind == "integer" or kind == "number":
        if _is_whole(stripped):
            return int(stripped)
        if kind == "number" and _is_number(stripped):
            return float(stripped)
        example = "a whole number, such as 12" if kind == "integer" else "a number"
        raise ValueError(f"Must be {example}.")
    return text if "\n" in text else stripped


def _show_line(value: Any) -> str:
    """Return a value of a list as one line, in quotes where a line alone is not it."""
    if not isinstance(value, str):
        return json_format.encode(value).decode()
    is_odd = value.strip() != value or "\n" in value or value.startswith('"')
    return json_format.encode(value).decode() if is_odd or not value else value


def _read_line(kind: str, line: str) -> Any:
    line = line.strip()
    if kind == "string" and line.startswith('"'):
        value = read_any(line)
        return value if isinstance(value, str) else line
    return _read_scalar(kind, line)


def _with_offset(text: str) -> str:
    """Return a time without an offset as one in UTC; anything else as it is."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if at.tzinfo else f"{at.isoformat()}Z"


def _local_time(value: Any) -> str:
    """Return the time in UTC as an input has it; empty if it cannot have it."""
    try:
        at = datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)
    except (TypeError, ValueError, OverflowError):
        return ""
    if at.microsecond % 1000:
        return ""
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds")


def _help(declared: Mapping[str, Any]) -> str:
    parts = [declared.get("description", "")]
    if declared.get("format") == "date-time":
        parts.append("In UTC.")
    if declared["type"] == "array":
        parts.append("One value per line.")
        if allowed := declared.get("items", {}).get("enum"):
            parts.append(f"Of: {', '.join(map(_show_scalar, allowed))}.")
    return " ".join(filter(None, parts))


def _widget(
    declared: Mapping[str, Any], stored: Any, *, required: bool
) -> forms.Widget:
    kind = declared["type"]
    if kind == "array":
        return forms.Textarea({"rows": 3, "dir": "auto"})
    if kind == "boolean" or "enum" in declared:
        return forms.Select(choices=list(_choices(declared, stored, required)))
    if kind == "integer" or kind == "number":
        return forms.NumberInput(dict(_limits(declared)))
    text = "" if stored is None else _show_scalar(stored)
    if "\n" in text or declared.get("maxLength", 0) >= LONG:
        return forms.Textarea({"rows": 3, "dir": "auto"})
    input_type = _input_type(declared.get("format"), text)
    attrs = {"type": input_type, "dir": "auto"}
    if input_type == "datetime-local":
        attrs["step"] = "any"
    return forms.TextInput(attrs)


def _choices(
    declared: Mapping[str, Any], stored: Any, required: bool
) -> Iterator[tuple[str, str]]:
    if not required or stored is None:
        yield "", "Choose …" if required else "None"
    words = {True: "Yes", False: "No"} if declared["type"] == "boolean" else {}
    allowed = declared.get("enum", [True, False])
    if stored is not None and stored not in allowed:
        allowed = [*allowed, stored]
    for value in allowed:
        yield _show_scalar(value), words.get(value, _show_scalar(value))


def _limits(declared: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    is_whole = declared["type"] == "integer"
    yield "step", 1 if is_whole else "any"
    if "minimum" in declared:
        least = declared["minimum"]
        yield "min", ceil(least) if is_whole else least
    if "maximum" in declared:
        yield "max", declared["maximum"]


def _input_type(form: str | None, text: str) -> str:
    """Return the type of input, which is plain where a browser would alter the text."""
    if form == "date" and (not text or _is_day(text)):
        return "date"
    if form == "date-time" and (not text or _local_time(text)):
        return "datetime-local"
    # A browser strips these, and rewrites host names that are not ASCII.
    if form in ("uri", "email") and text.isascii() and not re.search(r"\s", text):
        return {"uri": "url", "email": "email"}[form]
    return "text"


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


# --- forms that are sent to be changed, not saved


def is_revision(data: Any) -> bool:
    """Return whether the form is sent to get other inputs, rather than to be saved."""
    has_moved = data.get(ATTRIBUTES_OF) not in (None, data.get("collection"))
    return has_moved or any(name in data for name in (ADD, REMOVE, CHANGE))


def revise_rows(data: Any, rows: Mapping[str, RowsWidget]) -> None:
    """Add or remove the row that a button stands for."""
    if widget := rows.get(data.get(ADD, "")):
        for column in widget.columns:
            first = column.choices[0][0] if column.choices else ""
            data.appendlist(f"{data[ADD]}-{column.name}", first)
    name, _, number = data.get(REMOVE, "").rpartition("-")
    if (widget := rows.get(name)) and number.isdecimal():
        for column in widget.columns:
            texts = data.getlist(f"{name}-{column.name}")
            data.setlist(
                f"{name}-{column.name}",
                [text for place, text in enumerate(texts) if place != int(number)],
            )


def move_attributes(
    data: Any, before: AttributeSchema, after: AttributeSchema, values: dict[str, Any]
) -> None:
    """Make of what was typed for one schema what is to be shown for another one.

    `values` are those of what was not typed.
    """
    for name, declared in before.properties.items():
        text = data.pop(PREFIX + name, [""])[-1]
        try:
            found = read(declared, "\n".join(_lines(text)))
        except ValueError:
            found = text
        if found is not None:
            values[name] = found
    names, texts = f"{ATTRIBUTES}-name", f"{ATTRIBUTES}-value"
    rows = zip(data.getlist(names), data.getlist(texts), strict=False)
    values |= {name.strip(): read_any(text) for name, text in rows if text}
    data.setlist(names, [])
    data.setlist(texts, [])
    for name, value in values.items():
        if name in after.properties:
            data[PREFIX + name] = show(after.properties[name], value)
        else:
            data.appendlist(names, name)
            data.appendlist(texts, show_any(value))
