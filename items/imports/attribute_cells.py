"""Cells of attributes and labels: text of a file to values, and back.

The schema of the row's collection says of which type an attribute is. Others are what
their text is as JSON, else text. What `show` writes, `read` reads back as it was.
"""

import re
from collections.abc import Mapping
from datetime import datetime, time
from typing import Any

import orjson

from items.bulk.checking import SET_ATTRIBUTES, SET_LABELS
from items.fields import ItemData
from items.models import Collection
from resilient_site.api import json_format
from resilient_site.errors import Invalid

type Declared = Mapping[str, Any]

ATTRIBUTE = "attributes."

# As people, and spreadsheets in some languages, write them.
FLAGS = dict.fromkeys(
    ("true", "yes", "1", "wahr", "vrai", "verdadero", "verdadeiro", "vero"), True
) | dict.fromkeys(
    ("false", "no", "0", "falsch", "faux", "falso"), False
)  # fmt: skip
JSON_FLAGS = {"TRUE": True, "FALSE": False}  # Excel's
_is_whole = re.compile(r"[-+]?[0-9]{1,20}(\.0*)?").fullmatch
_is_number = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?").fullmatch
_comma = re.compile(r"([-+]?[0-9]*),([0-9]+)")
_european_day = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})\b")


class Attributes:
    """The attributes of a collection, as the columns of a file name them."""

    def __init__(self, collection: Collection | None) -> None:
        schemas = collection.schemas if collection else []
        self._declared = {
            name: declared
            for schema in reversed(schemas)
            for name, declared in schema.properties.items()
        }
        self._is_closed = bool(schemas) and all(one.is_closed for one in schemas)
        self._found: dict[str, tuple[str, Declared | None]] = {}

    def may_have(self, column: str) -> bool:
        """Return whether an item can have what a column of this field is."""
        is_attribute = column.startswith(ATTRIBUTE)
        return not (is_attribute and self._is_closed and self.find(column)[1] is None)

    def find(self, column: str) -> tuple[str, Declared | None]:
        """Return name and declaration of the attribute of a column `attributes.NAME`.

        That is the one of this name, else the only one that differs by case alone.
        """
        if found := self._found.get(column):
            return found
        name = column.removeprefix(ATTRIBUTE)
        names = [n for n in self._declared if n.lower() == name.lower()]
        if name not in self._declared and len(names) == 1:
            name = names[0]
        self._found[column] = found = name, self._declared.get(name)
        return found


def set_members(
    cells: Mapping[str, Any],
    attributes: Attributes,
    *,
    is_text: bool,
    decimal_comma: bool = False,
) -> ItemData:
    """Return the members that `cells`, by column, give a row: None for without it.

    Raises Invalid with the attributes whose cells do not fit.
    """
    values: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for column, cell in cells.items():
        if not column.startswith(ATTRIBUTE):
            is_empty = isinstance(cell, str) and not cell.strip()
            labels[column.removeprefix("labels.")] = None if is_empty else cell
            continue
        name, declared = attributes.find(column)
        if name in values:
            errors[name] = ["There are two columns of this attribute."]
        try:
            values[name] = read(declared, cell, decimal_comma) if is_text else cell
        except ValueError as error:
            errors[name] = [str(error)]
    if errors:
        raise Invalid(errors={"attributes": errors})
    given = {SET_ATTRIBUTES: values, SET_LABELS: labels}
    return {part: members for part, members in given.items() if members}


def combine(earlier: ItemData, later: ItemData) -> ItemData:
    """Return one row of two of the same item, of which the later one counts."""
    combined = earlier | later
    for part, whole in ((SET_ATTRIBUTES, "attributes"), (SET_LABELS, "labels")):
        if part in earlier and whole not in later:
            combined[part] = earlier[part] | later.get(part, {})
        elif part in earlier and part not in later:
            del combined[part]
    return combined


def read(declared: Declared | None, text: str, decimal_comma: bool = False) -> Any:
    """Return the value of a cell, None if it is empty; raise ValueError."""
    stripped = text.strip()
    if not stripped:
        return None
    if declared is None:
        return _read_any(text)
    if declared["type"] != "array":
        return _read_scalar(declared, text, decimal_comma)
    if stripped.startswith("["):
        try:
            return orjson.loads(stripped)
        except orjson.JSONDecodeError as error:
            message = "Must be a JSON array, or values with “;” between them."
            raise ValueError(message) from error
    parts = filter(None, map(str.strip, stripped.split(";")))
    kind = declared.get("items", {"type": "string"})
    return [_read_scalar(kind, part, decimal_comma) for part in parts]


def show(declared: Declared | None, value: Any) -> str:
    """Return the cell of a value; text that would be read as another one is JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            found = read(declared, value)
        except ValueError:
            found = None
        if isinstance(found, str) and found == value:
            return value
    return json_format.encode(value).decode()


def read_day(text: str) -> str:
    """Return a day as ISO 8601 writes it, if a spreadsheet may have written this."""
    at = _read_time(text)
    return text if at is None or at.time() != time() else at.date().isoformat()


def _read_any(text: str) -> Any:
    stripped = text.strip()
    if stripped in JSON_FLAGS:
        return JSON_FLAGS[stripped]
    try:
        return orjson.loads(stripped)
    except orjson.JSONDecodeError:
        return _one_line(text)


def _read_scalar(declared: Declared, text: str, decimal_comma: bool) -> Any:
    kind, stripped = declared["type"], text.strip()
    if kind == "string":
        return _read_text(declared.get("format"), text)
    if kind == "boolean":
        if (flag := FLAGS.get(stripped.lower())) is None:
            raise ValueError("Must be true or false.")
        return flag
    if decimal_comma:
        stripped = _comma.sub(r"\1.\2", stripped, count=1)
    if _is_whole(stripped):
        return int(stripped.partition(".")[0])
    if kind == "number" and _is_number(stripped):
        return float(stripped)
    example = "a whole number, such as 12" if kind == "integer" else "a number"
    raise ValueError(f"Must be {example}.")


def _read_text(form: str | None, text: str) -> str:
    if text.startswith('"') and text.endswith('"'):
        try:
            return str(orjson.loads(text))
        except orjson.JSONDecodeError:
            return _one_line(text)
    if form == "date":
        return read_day(text.strip())
    if form == "date-time" and (at := _read_time(text)):
        return text.strip() if at.tzinfo else f"{at.isoformat()}Z"
    return _one_line(text)


def _one_line(text: str) -> str:
    """Return the text without the spaces around it, if it is one line."""
    return text if "\n" in text else text.strip()


def _read_time(text: str) -> datetime | None:
    iso = _european_day.sub(r"\3-\2-\1", text.strip(), count=1).replace("/", "-")
    iso = re.sub(r"-([0-9])(?=[-T ]|$)", r"-0\1", iso)
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return None
