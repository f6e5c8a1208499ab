"""The JSON Schema of a collection: which attributes its items have, of which type.

The useful subset of JSON Schema 2020-12 (see SUBSET), with keywords of our own:
`x-searchable` and `x-filterable`, whether the search and the filters of lists look at
an attribute; `x-unique`, whether two items of a collection may have the same value;
`x-reference`, the collection whose codes are its values; `x-order`, the names of the
attributes in their order, as JSON objects have none. Without a schema, `{}`, items may
have any attributes.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

import jsonschema_rs
import orjson

from items import rules
from resilient_site.api.null_characters import has_null_character
from resilient_site.errors import Invalid

type Schema = Mapping[str, Any]

TEXT = {"type": "string", "maxLength": 1_000}
FLAG = {"type": "boolean"}
SIZE = {"type": "integer", "minimum": 0, "maximum": 100_000}
# As attributes are bounded: of a larger one JSONB makes what orjson cannot write.
NUMBER = {
    "type": "number", "minimum": -rules.INTEGER_MAX, "maximum": rules.INTEGER_MAX,
}  # fmt: skip
PATTERN_UNUSABLE = (
    "Must be a regular expression that can be matched without backtracking: no "
    "look-around, no back-references, and few repetitions."
)
FORMATS = ("date", "date-time", "uri", "email")
SCALARS: dict[str, dict[str, Any]] = {
    "string": {
        "pattern": {"type": "string", "format": "regex", "maxLength": 500},
        "minLength": SIZE,
        "maxLength": SIZE,
        "format": {"enum": FORMATS},
    },
    "integer": {"minimum": NUMBER, "maximum": NUMBER},
    "number": {"minimum": NUMBER, "maximum": NUMBER},
    "boolean": {},
}
COMMON = {
    "title": TEXT,
    "description": TEXT,
    "default": {},
    "x-searchable": FLAG,
    "x-filterable": FLAG,
}
# What makes an attribute have an index, and of how many characters it may be then.
INDEXED = ("x-filterable", "x-unique", "x-reference")
INDEXED_MAX = 250
ORDER = "x-order"
# What makes no difference to which items conform.
ANNOTATIONS = ("$schema", "title", "description", "default", ORDER)
UNIQUE = {"x-unique": FLAG}
REFERENCE = {"x-reference": {"type": "string", "pattern": rules.KEY_PATTERN}}


def _of_type(name: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type"],
        "additionalProperties": False,
        "properties": {"type": {"const": name}, **keywords},
    }


def _scalars(keywords: Mapping[str, Any]) -> list[dict[str, Any]]:
    enum = {"type": "array", "minItems": 1, "maxItems": 1_000, "uniqueItems": True}
    return [
        _of_type(name, {"enum": enum | {"items": {"type": name}}, **own, **keywords})
        for name, own in SCALARS.items()
    ]


ARRAY = {
    "items": {"oneOf": _scalars({})},
    "minItems": SIZE,
    "maxItems": SIZE,
    "uniqueItems": FLAG,
}
# What a schema of a collection may say, as a JSON Schema.
SUBSET: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://json-schema.org/draft/2020-12/schema"},
        "type": {"const": "object"},
        "title": TEXT,
        "description": TEXT,
        "properties": {
            "type": "object",
            "maxProperties": rules.ATTRIBUTES_MAX,
            "propertyNames": {"pattern": rules.NAME_PATTERN, "maxLength": 50},
            "additionalProperties": {
                "oneOf": [
                    *_scalars({**COMMON, **UNIQUE, **REFERENCE}),
                    _of_type("array", {**ARRAY, **COMMON}),
                ]
            },
        },
        "required": {
            "type": "array",
            "uniqueItems": True,
            "items": {"type": "string"},
        },
        "additionalProperties": FLAG,
        ORDER: {"type": "array", "items": {"type": "string"}},
    },
}


def _validator(schema: Schema) -> jsonschema_rs.Draft202012Validator:
    # Patterns that take linear time, whatever they are and are matched with.
    return jsonschema_rs.Draft202012Validator(
        dict(schema),
        validate_formats=True,
        pattern_options=jsonschema_rs.RegexOptions(),
    )


_subset = _validator(SUBSET)
_subset_by_type = {
    name: _validator(one)
    for name, one in zip(
        [*SCALARS, "array"],
        SUBSET["properties"]["properties"]["additionalProperties"]["oneOf"],
        strict=True,
    )
}


def in_order(schema: Schema) -> dict[str, Any]:
    """Return the schema with its attributes in their order, which it names.

    Those that `x-order` does not name come last, as they are.
    """
    properties = schema.get("properties", {})
    given = [name for name in schema.get(ORDER, ()) if name in properties]
    names = list(dict.fromkeys([*given, *properties]))
    ordered = {key: value for key, value in schema.items() if key != ORDER}
    if len(names) > 1:
        ordered["properties"] = {name: properties[name] for name in names}
        ordered[ORDER] = names
    return ordered


def constraints(schema: Schema) -> dict[str, Any]:
    """Return what items have to conform to, to compare it with another schema's."""
    properties = schema.get("properties", {})
    return _unannotated(schema) | {
        "properties": {name: _unannotated(one) for name, one in properties.items()}
    }


def _unannotated(schema: Schema) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ANNOTATIONS}


def _bounded(declared: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bound what has an index, so that PostgreSQL takes it with sort key and id."""
    if declared["type"] != "string" or not any(map(declared.get, INDEXED)):
        return declared
    longest = declared.get("maxLength", INDEXED_MAX)
    return {**declared, "maxLength": min(longest, INDEXED_MAX)}


class AttributeSchema:
    """A schema, compiled. All that is by attribute is in their order."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema = in_order(schema)
        self.properties: dict[str, Any] = schema.get("properties", {})
        # Whether items may have no attributes but these.
        self.is_closed = bool(self.properties) and not schema.get(
            "additionalProperties"
        )
        closing = {"additionalProperties": False} if self.properties else {}
        bounded = {name: _bounded(one) for name, one in self.properties.items()}
        self._validator = _validator(
            {"type": "object", **closing, **schema, "properties": bounded}
        )
        self.searchable = self._names("x-searchable")
        self.unique = self._names("x-unique")
        # Unique ones and references are looked up at every write.
        self.filterable = self._names(*INDEXED)
        self.references: dict[str, str] = {
            name: self.properties[name]["x-reference"]
            for name in self._names("x-reference")
        }

    def title(self, name: str) -> str:
        """Return what people call the attribute."""
        title = self.properties.get(name, {}).get("title")
        return title or name.replace("_", " ").capitalize()

    def _names(self, *keywords: str) -> tuple[str, ...]:
        return tuple(
            name
            for name, declared in self.properties.items()
            if any(declared.get(keyword) for keyword in keywords)
        )

    @cached_property
    def defaults(self) -> dict[str, Any]:
        return {
            name: declared["default"]
            for name, declared in self.properties.items()
            if "default" in declared
        }

    def errors(self, attributes: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return what is wrong, by attribute."""
        if self._validator.is_valid(attributes):
            return {}
        errors: dict[str, list[str]] = {}
        for name, message in self._errors(attributes):
            errors.setdefault(name, []).append(message)
        return errors

    def _errors(self, attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        required = self.schema.get("required", ())
        for name in required:
            if name not in attributes:
                yield name, "This attribute is required."
        for error in self._validator.iter_errors(dict(attributes)):
            if error.instance_path:
                yield str(error.instance_path[0]), f"{error.message}."
        if self.is_closed:
            for name in attributes.keys() - self.properties.keys():
                yield name, "There is no such attribute."


def compile_schema(schema: Schema) -> AttributeSchema:
    """Return the schema compiled, which is kept: it is used for every item."""
    # A number that JSONB has written out may be too long for orjson.
    return _compile(json.dumps(schema))


@lru_cache(256)
def _compile(schema: str) -> AttributeSchema:
    return AttributeSchema(orjson.loads(schema))


def clean_schema(schema: Any) -> Schema:
    """Return the schema, with the order of its attributes, if it is of the subset.

    Raises Invalid with what is not.
    """
    errors: dict[str, list[str]] = {}
    try:
        text = orjson.dumps(schema)
    except orjson.JSONEncodeError as error:  # too deep, or no Unicode
        raise Invalid(errors={"schema": {"schema": [f"{error}."]}}) from error
    if has_null_character(text):
        errors["schema"] = ["Must not contain a null character."]
    for path, message in _faults(schema):
        errors.setdefault(path, []).append(message)
    if errors:
        raise Invalid(errors={"schema": errors})
    cleaned = in_order(schema)
    for declared in cleaned.get("properties", {}).values():
        if "default" in declared:  # 5.0 is 5, as in attributes
            declared["default"] = rules.clean_attribute(declared["default"])
    return cleaned


def _faults(schema: Any) -> Iterator[tuple[str, str]]:
    is_object = isinstance(schema, Mapping)
    properties = schema.get("properties", {}) if is_object else None
    if not isinstance(properties, Mapping):
        yield from _found(_subset, schema, "")
        return
    # One attribute at a time, as it is of one type: else the errors were of all types.
    rest = {**schema, "properties": dict.fromkeys(properties, {"type": "boolean"})}
    yield from _found(_subset, rest, "")
    for name, declared in properties.items():
        yield from _faults_of(f"properties.{name}", declared)
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in properties:
            yield "required", f"There is no attribute “{name}”."


def _faults_of(place: str, declared: Any) -> Iterator[tuple[str, str]]:
    kind = declared.get("type") if isinstance(declared, Mapping) else None
    if not isinstance(kind, str) or kind not in _subset_by_type:
        yield f"{place}.type", f"Must be one of {', '.join(_subset_by_type)}."
        return
    faults = list(_found(_subset_by_type[kind], declared, place))
    yield from faults
    if faults:
        return
    kept = {k: v for k, v in declared.items() if k != "default"}
    try:
        validator = _validator(kept)
    except ValueError:  # what only the linear engine refuses: (?=a), \\1, too long
        yield f"{place}.pattern", PATTERN_UNUSABLE
        return
    if "default" not in declared:
        return
    try:
        rules.clean_attribute(declared["default"])
    except ValueError as error:
        yield f"{place}.default", str(error)
    else:
        if not validator.is_valid(declared["default"]):
            yield f"{place}.default", "Does not conform to the attribute itself."


def _found(
    validator: jsonschema_rs.Draft202012Validator, value: Any, place: str
) -> Iterator[tuple[str, str]]:
    for error in validator.iter_errors(value):
        path = ".".join(filter(None, [place, *map(str, error.instance_path)]))
        yield path or "schema", f"{error.message}."
