"""An attribute of a schema as people read and write it: in the form, and in words."""

from collections.abc import Mapping
from typing import Any

import orjson

from items.collections.schema import Schema
from items.models import Collection
from resilient_site.api import json_format

REFERENCE, ANY = "reference", "any"
# The types that people choose from, and what the schema has for each.
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "string": ("Text", {"type": "string"}),
    "integer": ("Whole number", {"type": "integer"}),
    "number": ("Number", {"type": "number"}),
    "boolean": ("Yes or no", {"type": "boolean"}),
    "date": ("Date", {"type": "string", "format": "date"}),
    "date-time": ("Date and time", {"type": "string", "format": "date-time"}),
    "uri": ("Web address", {"type": "string", "format": "uri"}),
    "email": ("E-mail address", {"type": "string", "format": "email"}),
    REFERENCE: ("Code of another collection", {"type": "string"}),
}
CHOICES = [(kind, label) for kind, (label, _) in KINDS.items()]
# A list without a type, which REST allows.
ANYTHING = (ANY, "Anything")
BOOLEANS = {"yes": True, "no": False, "true": True, "false": False}
# Keywords of the attribute as a whole by field; then those of each value of a list.
OF_WHOLE = {
    "title": "title", "description": "description", "default": "default",
    "is_searchable": "x-searchable", "is_filterable": "x-filterable",
    "is_unique": "x-unique",
}  # fmt: skip
FLAGS = {
    "is_required": "Required", "is_unique": "Unique", "is_searchable": "Searchable",
    "is_filterable": "Filterable",
}  # fmt: skip
LENGTHS = {"minimum": "minLength", "maximum": "maxLength"}
LIMITS = {"minimum": "minimum", "maximum": "maximum"}
OF_VALUES = {"values": "enum", "pattern": "pattern"}
FIELDS = {
    keyword: name
    for names in (OF_WHOLE, LENGTHS, LIMITS, OF_VALUES)
    for name, keyword in names.items()
} | {"x-reference": "reference", "type": "kind"}  # fmt: skip


def show(name: str, schema: Schema) -> dict[str, Any]:
    """Return an attribute of a schema as a row shows it."""
    whole = schema["properties"][name]
    part, kind = whole.get("items", whole), kind_of(whole)
    limits = LENGTHS if part["type"] == "string" else LIMITS
    return {
        "name": name,
        "kind": kind,
        "is_list": whole["type"] == "array",
        "is_required": name in schema.get("required", ()),
        "title": whole.get("title", ""),
        "description": whole.get("description", ""),
        "values": to_lines(part.get("enum", [])),
        "pattern": part.get("pattern", ""),
        **{field: to_lines(part.get(of, [])) for field, of in limits.items()},
        "default": to_lines(whole.get("default", [])),
        "reference": whole.get("x-reference", ""),
        **{f: bool(whole.get(of)) for f, of in OF_WHOLE.items() if f[:3] == "is_"},
    }


def describe(collection: Collection) -> list[dict[str, Any]]:
    """Return the attributes of a collection as its page has them, in words."""
    schema = collection.attributes.schema
    return [_describe(show(name, schema)) for name in schema.get("properties", {})]


def _describe(row: dict[str, Any]) -> dict[str, Any]:
    label = dict([*CHOICES, ANYTHING])[row["kind"]]
    unit = " characters" if is_text(row["kind"]) else ""
    match row["minimum"], row["maximum"]:
        case "", "":
            limits = ""
        case "", highest:
            limits = f"At most {highest}{unit}"
        case lowest, "":
            limits = f"At least {lowest}{unit}"
        case lowest, highest:
            limits = f"{lowest} to {highest}{unit}"
    return row | {
        "type": f"{label} (list)" if row["is_list"] else label,
        "limits": limits,
        "allowed": row["values"].split("\n") if row["values"] else [],
        "flags": [word for name, word in FLAGS.items() if row[name]],
    }


def is_text(kind: str) -> bool:
    return kind != ANY and KINDS[kind][1]["type"] == "string"


def kind_of(declared: Mapping[str, Any]) -> str:
    """Return which of the types it is that people choose from."""
    part = declared.get("items", declared)
    if part["type"] == "array":
        return ANY
    if part["type"] == "string" and "format" in part:
        return str(part["format"])
    if part["type"] == "string" and "x-reference" in declared:
        return REFERENCE
    return str(part["type"])


def to_lines(values: Any) -> str:
    """Return a value, or each of a list on its line, as people write it."""
    return "\n".join(map(_to_line, values if isinstance(values, list) else [values]))


def _to_line(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        # What would be another text, written plainly, is in quotation marks.
        is_plain = value == value.strip() != "" and value[0] != '"'
        if is_plain and "\n" not in value and "\r" not in value:
            return value
    return json_format.encode(value).decode()


def from_line(text: str, kind: str) -> Any:
    """Return the value of this JSON type; raise ValueError."""
    text = text.strip()
    if kind == "boolean":
        if text.lower() not in BOOLEANS:
            raise ValueError("Must be yes or no.")
        return BOOLEANS[text.lower()]
    quoted = text[0] == '"' and _from_json(text)
    if kind not in ("integer", "number"):
        return quoted if isinstance(quoted, str) else text
    number = _from_json(text)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"“{text[:50]}” is no number, such as 40 or 1.5.")
    if kind == "integer" and number != int(number):
        raise ValueError(f"“{text[:50]}” is no whole number.")
    return int(number) if kind == "integer" else number


def _from_json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def from_lines(text: str, json_type: str) -> list[Any]:
    """Return the value of each line; raise ValueError."""
    lines = (line for line in text.split("\n") if line.strip())
    return [from_line(line, json_type) for line in lines]
