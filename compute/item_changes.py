"""The parameters of the task `change_items`: which items, and what they are given."""

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from django.http import QueryDict
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from compute.selection import FilterField, filtered_items
from items import fields, inputs, integrity, rules
from items.bulk.checking import ADD_TAGS, REMOVE_TAGS, SET_ATTRIBUTES
from items.fields import ItemData
from items.models import Collection, Item, ItemQuerySet
from resilient_site.errors import Invalid

IDS_MAX = 10_000
# Fields that all of the items are given.
WHOLE = ("status", "collection", "parent", "replaced_by", "valid_from", "valid_to")
CLEARABLE = ("parent", "replaced_by", "valid_from", "valid_to")


class Typed(str):
    """Text of a form, which becomes a value as the schema declares it."""


@extend_schema_field({"type": "object", "additionalProperties": {}})
class AttributesField(serializers.JSONField):
    """Values by name, null to remove one; forms write JSON, or name = value lines."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if isinstance(data, str) and not data.lstrip().startswith("{"):
            return dict(map(_line, filter(str.strip, data.splitlines())))
        try:
            given = orjson.loads(data) if isinstance(data, str) else data
        except ValueError as error:
            raise serializers.ValidationError(f"Must be JSON: {error}.") from error
        if not isinstance(given, Mapping):
            raise serializers.ValidationError("Must be an object of values by name.")
        return dict(given)


def _line(line: str) -> tuple[str, Any]:
    name, sign, text = line.partition("=")
    if not sign:
        message = f"“{line[:50]}” is not “name = value”."
        raise serializers.ValidationError(message)
    return name.strip(), Typed(text.strip()) if text.strip() else None


def _tags(help_text: str) -> Any:
    child = serializers.CharField(max_length=rules.TAG_MAX)
    return serializers.ListField(
        child=child, default=list, max_length=rules.TAGS_MAX, help_text=help_text
    )


class Params(serializers.Serializer[Any]):
    filter = FilterField(
        default="",
        help_text="Which items: the parameters of a list, such as "
        "collection=country&tag=old, or the address of a list.",
    )
    ids = serializers.ListField(
        child=serializers.CharField(max_length=rules.ID_MAX),
        default=list,
        max_length=IDS_MAX,
        help_text=f"Instead of a filter: up to {IDS_MAX:,} ids, one per line.",
    )
    all = serializers.BooleanField(
        default=False,
        label="All items",
        help_text="Instead of a filter: the whole catalogue.",
    )
    number = serializers.IntegerField(
        required=False,
        min_value=1,
        label="Number of items",
        help_text="How many these are. If there are more, none is changed.",
    )
    set_attributes = AttributesField(
        default=dict,
        style={"attrs": {"rows": 5}},
        help_text="One per line: region = EMEA. Without a value, the attribute is "
        "removed. Or a JSON object, in which null removes.",
    )
    add_tags = _tags("One per line.")
    remove_tags = _tags("One per line.")
    clear = serializers.MultipleChoiceField(
        choices=[(name, name.replace("_", " ").capitalize()) for name in CLEARABLE],
        default=set,
        label="Remove values",
        help_text="What the items have no more.",
    )
    dry_run = serializers.BooleanField(
        default=False, help_text="Only show what would change."
    )
    order: ClassVar = (
        "filter", "ids", "all", "number", *WHOLE, "clear", "set_attributes",
        "add_tags", "remove_tags", "dry_run",
    )  # fmt: skip

    def get_fields(self) -> dict[str, Any]:
        declared = {field.name: field for field in fields.STATE_FIELDS}
        helps = {"collection": "The key of the collection to which they move."}
        whole = {
            name: declared[name].serializer_field(
                required=False,
                help_text=helps.get(name, declared[name].help_text),
                **({"allow_blank": True} if name == "status" else {}),
                **({"allow_null": False} if name in CLEARABLE else {}),
            )
            for name in WHOLE
        }
        found = super().get_fields() | whole
        return {name: found[name] for name in self.order}

    def validate(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return those that are given: all others stand for nothing."""
        given = {n: v for n, v in params.items() if v not in ("", [], {}, set(), False)}
        if "clear" in given:
            given["clear"] = sorted(given["clear"])
        for name in {"valid_from", "valid_to"} & given.keys():
            given[name] = given[name].isoformat()
        if "set_attributes" in given:
            given["set_attributes"] = _typed(given)
        try:
            if len(given.keys() & {"filter", "ids", "all"}) != 1:
                message = "Choose the items: by a filter, by their ids, or all."
                raise Invalid(errors={"filter": [message]})
            change = change_of(given)
            _expect_known(change)
            _expect_number(selected_items(given).count(), given)
        except Invalid as error:
            raise serializers.ValidationError(dict(error.errors or {})) from error
        return given


def _typed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a form as values, by the schema if there is one.

    Raises ValidationError.
    """
    query = QueryDict(params.get("filter", ""))
    keys = [params["collection"]] if "collection" in params else []
    keys = keys or query.getlist("collection")
    found = Collection.objects.filter(pk__in=keys[:1] if len(keys) == 1 else [])
    schema = {n: d for c in found for n, d in c.attributes.properties.items()}
    values = dict(params["set_attributes"])
    for name, text in values.items():
        if not isinstance(text, Typed):
            continue
        if name not in schema or schema[name]["type"] == "array":
            values[name] = inputs.read_any(str(text))
            continue
        try:
            values[name] = inputs.read(schema[name], str(text))
        except ValueError as error:
            message = {"set_attributes": [f"{name}: {error}"]}
            raise serializers.ValidationError(message) from error
    return values


def change_of(params: Mapping[str, Any]) -> ItemData:
    """Return the members that each item's row has; raises Invalid."""
    errors: dict[str, Any] = {}
    change = {name: params[name] for name in WHOLE if name in params}
    for name in params.get("clear", ()):
        if name in change:
            errors["clear"] = [f"“{name}” is given a value as well."]
        change[name] = None
    parts = {SET_ATTRIBUTES: "attributes", ADD_TAGS: "tags", REMOVE_TAGS: "tags"}
    for part, name in parts.items():
        if part not in params:
            continue
        try:
            change[part] = fields.clean({name: params[part]}, partial=True)[name]
        except Invalid as error:
            errors[part] = (error.errors or {})[name]
    try:
        change |= fields.clean(
            {name: change[name] for name in WHOLE if name in change},
            partial=True,
            is_json=True,
        )
    except Invalid as error:
        errors |= error.errors or {}
    if not change and not errors:
        errors["non_field_errors"] = ["Choose what is to be changed."]
    if errors:
        raise Invalid(errors=errors)
    if SET_ATTRIBUTES in change:  # cleaned, they are without those that are removed
        removed = [n for n, v in params[SET_ATTRIBUTES].items() if v is None]
        change[SET_ATTRIBUTES] |= dict.fromkeys(removed)
    return change


def _expect_known(change: ItemData) -> None:
    """Raise Invalid if the items are to refer to what there is not."""
    errors = {}
    for name in integrity.POINTERS:
        target = change.get(name)
        if target and not Item.objects.filter(pk=target).exists():
            errors[name] = [f"There is no item “{target}”."]
    key = change.get("collection")
    if key and not Collection.objects.filter(pk=key).exists():
        errors["collection"] = [f"There is no collection “{key}”."]
    if errors:
        raise Invalid(errors=errors)


def _expect_number(found: int, params: Mapping[str, Any]) -> None:
    if not found:
        name = "ids" if "ids" in params else "filter"
        raise Invalid(errors={name: ["There are no such items."]})
    if found != params.get("number", found):
        message = f"There are {found:,} items in this selection."
        raise Invalid(errors={"number": [message]})


def selected_items(params: Mapping[str, Any]) -> ItemQuerySet:
    """Return the items, in no order; raises Invalid."""
    if "ids" in params:
        ids = [str(item_id) for item_id in params["ids"]]
        return Item.objects.filter(pk__in=ids)
    return filtered_items(params.get("filter", "")).order_by()


def describe(change: ItemData) -> str:
    """Return a change in words: status retired, region = EMEA, without the tag old."""
    words = []
    for name, value in change.items():
        label = name.replace("_", " ")
        match name:
            case "set_attributes":
                words += [
                    f"without {n}" if v is None else f"{n} = {inputs.show_any(v)}"
                    for n, v in value.items()
                ]
            case "add_tags" | "remove_tags":
                sign = "with" if name == ADD_TAGS else "without"
                words += [f"{sign} the tag {tag}" for tag in value]
            case _:
                words.append(
                    f"without {label}" if value is None else f"{label} {value}"
                )
    return ", ".join(words)
