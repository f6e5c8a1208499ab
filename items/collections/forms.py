"""The form of a collection, in which its schema is rows: one for each attribute.

Of the stored schema, what nobody typed otherwise stays as it is: what the rows cannot
show is kept, too.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from django import forms

from items import catalogue, rules
from items.collections import editing
from items.collections.schema import ORDER, Schema, clean_schema, in_order
from items.collections.wording import (
    ANY,
    ANYTHING,
    CHOICES,
    FIELDS,
    KINDS,
    LENGTHS,
    LIMITS,
    OF_VALUES,
    OF_WHOLE,
    REFERENCE,
    from_line,
    from_lines,
    is_text,
    show,
)
from items.models import Collection, Versioned
from resilient_site.api.pagination import parse_small_number
from resilient_site.errors import Errors, Invalid

ROWS = "attributes"


class AttributeForm(forms.Form):
    """An attribute of the schema."""

    # Its name in the stored schema.
    was = forms.CharField(required=False, widget=forms.HiddenInput)
    name = forms.RegexField(
        rules.NAME_PATTERN,
        max_length=50,
        help_text="Letters A-Z, digits, _",
        error_messages={
            "invalid": "May have letters A-Z and digits, with _ between them, and "
            "begins with a letter."
        },
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
    title = forms.CharField(required=False, help_text="As people read it")
    kind = forms.ChoiceField(label="Type", choices=CHOICES, initial="string")
    reference = forms.CharField(
        label="Collection",
        required=False,
        help_text="Its key",
        widget=forms.TextInput({"list": "collections", "autocomplete": "off"}),
    )
    is_list = forms.BooleanField(label="List of such values", required=False)
    is_required = forms.BooleanField(label="Required", required=False)
    values = forms.CharField(
        label="Allowed values",
        required=False,
        help_text="One per line; none: any",
        widget=forms.Textarea({"rows": 2, "spellcheck": "false"}),
    )
    # Whether the fields below it are shown, also after a row was added.
    more = forms.BooleanField(label="More", required=False)
    description = forms.CharField(
        required=False,
        help_text="Shown beside the field when an item is edited",
        widget=forms.Textarea({"rows": 2}),
    )
    minimum = forms.CharField(
        required=False, help_text="Of text: its number of characters"
    )
    maximum = forms.CharField(
        required=False, help_text="Of text: its number of characters"
    )
    pattern = forms.CharField(
        required=False,
        strip=False,
        help_text="A regular expression, such as ^[A-Z]{2}$",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
    default = forms.CharField(
        required=False,
        help_text="The value in the form of a new item; of a list: one per line",
        widget=forms.Textarea({"rows": 1, "spellcheck": "false"}),
    )
    is_searchable = forms.BooleanField(label="The search looks into it", required=False)
    is_filterable = forms.BooleanField(
        label="Lists can be filtered by it", required=False
    )
    is_unique = forms.BooleanField(
        label="No two items have the same value", required=False
    )

    # The control that has the focus when the page is shown.
    focus = ""
    UPPER = ("name", "title", "kind", "reference")
    LOWER = ("description", "minimum", "maximum", "pattern", "default")
    CHECKS = ("is_searchable", "is_filterable", "is_unique")

    def __init__(self, *args: Any, schema: Schema, **options: Any) -> None:
        super().__init__(*args, **options)
        self.before: Schema = schema.get("properties", {}).get(self["was"].value(), {})
        self.shown = show(self["was"].value(), schema) if self.before else {}
        if self.shown.get("kind") == ANY:
            self.fields["kind"].choices = [*CHOICES, ANYTHING]  # type: ignore[attr-defined]

    def upper(self) -> list[forms.BoundField]:
        return [self[name] for name in self.UPPER]

    def lower(self) -> list[forms.BoundField]:
        return [self[name] for name in self.LOWER]

    def checks(self) -> list[forms.BoundField]:
        return [self[name] for name in self.CHECKS]

    def has_changed(self) -> bool:
        """Return whether the row is in use; an empty one is ignored."""
        return not {"more"} >= {*self.changed_data}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            self._expect_applicable(dict(cleaned))
        if not self.errors:
            self.declared = self._declare(dict(cleaned))
        if not self.errors:
            # Each value of a list first: else the error were that of all types.
            self._check(self.declared.get("items", self.declared))
        if not self.errors:
            self._check(self.declared)
        return cleaned

    def _expect_applicable(self, cleaned: dict[str, Any]) -> None:
        """Add an error for each field that does not go with the type."""
        kind, is_list = cleaned["kind"], cleaned["is_list"]
        if kind == ANY and not is_list:
            self.add_error("kind", "Choose a type: only a list can be of anything.")
        if kind == REFERENCE and not cleaned["reference"]:
            self.add_error("reference", "Name the collection whose codes these are.")
        if kind == REFERENCE and is_list:
            self.add_error("kind", "A list cannot be of codes of another collection.")
        if is_list and cleaned["is_unique"]:
            self.add_error("is_unique", "Lists cannot be compared with each other.")
        if cleaned["pattern"] and not is_text(kind):
            self.add_error("pattern", "Only text has a pattern.")
        for name in ("minimum", "maximum"):
            if cleaned[name] and kind in ("boolean", ANY):
                self.add_error(name, "Only numbers and text have limits.")
        if cleaned["values"] and kind == ANY:
            self.add_error("values", "Choose a type to name its values.")

    def _declare(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        """Return the attribute as it was, with what was typed otherwise."""
        kind, is_list = cleaned["kind"], cleaned["is_list"]
        is_same = (kind, is_list) == (self.shown.get("kind"), self.shown.get("is_list"))
        shown = self.shown if is_same else {}
        whole = deepcopy(dict(self.before)) if is_same else _blank(kind, is_list)
        part = whole.get("items", whole)
        json_type = part["type"]
        limits = LENGTHS if json_type == "string" else LIMITS
        for name, keyword in (OF_VALUES | limits | OF_WHOLE).items():
            typed = self._as_sent(name, cleaned[name])
            if typed == self._as_sent(name, shown.get(name, "")):
                continue
            try:
                value = _read(name, typed, json_type, is_list)
            except ValueError as error:
                self.add_error(name, str(error))
                continue
            target = whole if name in OF_WHOLE else part
            target.pop(keyword, None)
            if value is not None:
                target[keyword] = value
        if kind == REFERENCE:
            whole["x-reference"] = cleaned["reference"]
        return whole

    def _as_sent(self, name: str, value: Any) -> Any:
        """Return a value as a browser sends it, in which lines may end otherwise."""
        field = self.fields[name]
        if not isinstance(field, forms.CharField):
            return bool(value)
        is_long = isinstance(field.widget, forms.Textarea)
        lines = value.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        text = ("\n" if is_long else "").join(lines)
        return text.strip() if field.strip else text

    def _check(self, declared: Schema) -> None:
        try:
            clean_schema({"properties": {"it": declared}})
        except Invalid as error:
            for place, texts in (error.errors or {})["schema"].items():
                self.add_error_at(place, texts)

    def add_error_at(self, place: str, texts: list[str]) -> None:
        """Add errors at the field of a place such as `properties.size.maximum`."""
        keyword = place.split(".")[2:3]
        self.add_error(FIELDS.get(keyword[0]) if keyword else None, texts)

    def has_errors_below(self) -> bool:
        return not self.errors.keys().isdisjoint([*self.LOWER, *self.CHECKS])


def _blank(kind: str, is_list: bool) -> dict[str, Any]:
    part = dict(KINDS[kind][1])
    return {"type": "array", "items": part} if is_list else part


def _read(name: str, typed: Any, json_type: str, is_list: bool) -> Any:
    """Return the value of a keyword as it was typed; None without one."""
    if typed in ("", False):
        return None
    match name:
        case "values":
            return list(dict.fromkeys(from_lines(typed, json_type)))
        case "default":
            values = from_lines(typed, json_type)
            if len(values) > 1 and not is_list:
                raise ValueError("Must be one value.")
            return values if is_list else values[0]
        case "minimum" | "maximum":
            is_text = json_type == "string"
            return from_line(typed, "integer" if is_text else "number")
        case _:
            return typed


class Rows(forms.BaseFormSet):  # type: ignore[type-arg]
    """The attributes of a schema, in their order."""

    def clean(self) -> None:
        taken = set()
        for row in self.used():
            name = row.cleaned_data.get("name")
            if name in taken:
                row.add_error("name", "Another attribute has this name.")
            taken.add(name)

    def used(self) -> list[AttributeForm]:
        return [row for row in self.forms if row.has_changed()]

    def typed(self) -> list[dict[str, Any]]:
        """Return what was typed, to be shown again without checking it."""
        return [{name: row[name].data for name in row.fields} for row in self.forms]

    def schema(self, before: Schema) -> Schema:
        """Return the schema that the rows make of the one before."""
        rows = {row.cleaned_data["name"]: row for row in self.used()}
        renamed = {row.cleaned_data["was"]: name for name, row in rows.items()}
        needed = [name for name, row in rows.items() if row.cleaned_data["is_required"]]
        still = [renamed.get(name) for name in before.get("required", ())]
        required = [name for name in still if name in needed]
        required += [name for name in needed if name not in required]
        schema = {key: value for key, value in before.items() if key != ORDER}
        if rows or "properties" in before:
            schema["properties"] = {name: row.declared for name, row in rows.items()}
        if required or "required" in before:
            schema["required"] = required
        return in_order(schema)


def rearrange(rows: list[dict[str, Any]], action: str) -> tuple[int, str] | None:
    """Add, move or remove a row; return which one, and its control, has the focus."""
    what, _, place = action.partition(":")
    at = parse_small_number(place)
    if what == "add":
        rows.append({})
        return len(rows) - 1, "name"
    if at is None or at >= len(rows):
        return None
    row = rows.pop(at)
    if what == "remove":
        return (min(at, len(rows) - 1), "name") if rows else None
    at = max(at - 1, 0) if what == "up" else min(at + 1, len(rows))
    rows.insert(at, row)
    # At an end there is no button for the way on.
    return at, "down" if at == 0 else "up" if at == len(rows) - 1 else what


AttributeRows = forms.formset_factory(
    AttributeForm,
    formset=Rows,
    extra=0,
    max_num=rules.ATTRIBUTES_MAX,
    absolute_max=rules.ATTRIBUTES_MAX,
)


class CollectionForm(forms.Form):
    """A collection as people write it."""

    key = forms.CharField(
        max_length=rules.KEY_MAX,
        help_text="Its name in addresses and files, for ever: letters a-z, digits, - "
        "and _, such as cost-center.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
    name = forms.CharField(max_length=rules.NAME_MAX)
    description = forms.CharField(required=False, widget=forms.Textarea({"rows": 3}))
    source = forms.CharField(
        required=False,
        max_length=editing.SOURCE_MAX,
        help_text="Where the codes come from: a standard, an office, an address.",
    )
    licence = forms.CharField(
        required=False,
        max_length=editing.LICENCE_MAX,
        help_text="Under which terms they may be used, such as CC0-1.0.",
    )
    is_open = forms.BooleanField(
        label="Items may have other attributes, too", required=False
    )
    version = forms.CharField(required=False, widget=forms.HiddenInput)

    TEXTS = ("name", "description", "source", "licence")

    def __init__(
        self,
        data: Any = None,
        *,
        instance: Collection | None = None,
        typed: Any = None,
    ) -> None:
        """Check `data`, or show the instance, or what was typed with a row changed."""
        self.instance = instance
        self.before: Schema = instance.attributes.schema if instance else {}
        initial: dict[str, Any] = {"is_open": self._is_open(self.before)}
        properties = self.before.get("properties", {})
        rows = [show(name, self.before) | {"was": name} for name in properties]
        if instance:
            initial |= {name: getattr(instance, name) for name in self.TEXTS}
            initial["version"] = instance.revision
        super().__init__(data, initial=initial)
        if instance:
            del self.fields["key"]
        else:
            rows = [{}]
        focus = None
        if typed is not None:
            self.initial = {name: self._typed(name, typed) for name in self.fields}
            rows = self._rows(typed).typed()
            focus = rearrange(rows, typed["_row"])
        # What is sent is compared with the stored schema by each row itself.
        self.rows = self._rows(data, rows if data is None else None)
        if focus:
            at, control = focus
            self.rows.forms[at].focus = control
            if control == "name":
                self.rows.forms[at].fields["name"].widget.attrs["autofocus"] = True

    def _rows(self, data: Any, initial: Any = None) -> Rows:
        options = {"schema": self.before}
        return AttributeRows(  # type: ignore[return-value]
            data, initial=initial, prefix=ROWS, form_kwargs=options
        )

    def _typed(self, name: str, data: Any) -> Any:
        return self.fields[name].widget.value_from_datadict(data, {}, name)

    @staticmethod
    def _is_open(schema: Schema) -> bool:
        return bool(schema.get("additionalProperties"))

    def is_valid(self) -> bool:
        return super().is_valid() and not self.has_errors()

    def has_errors(self) -> bool:
        return self.is_bound and bool(self.errors or self.rows.total_error_count())

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.rows.is_valid() and not self.errors:
            self.data_to_write: editing.Data = {}
            try:
                self.data_to_write = self._data(cleaned)
            except Invalid as error:
                self.add_errors(error.errors or {})
        return cleaned

    def _data(self, cleaned: dict[str, Any]) -> editing.Data:
        schema = dict(self.rows.schema(self.before))
        if cleaned["is_open"] != self._is_open(schema):
            schema["additionalProperties"] = cleaned["is_open"]
        raw = {name: cleaned[name] for name in self.fields if name in self.TEXTS}
        if self.instance is None:
            return editing.clean(raw | {"key": cleaned["key"], "schema": schema})
        if schema != self.before:
            raw["schema"] = schema
        return editing.clean(raw, partial=True)

    def add_errors(self, errors: Errors) -> None:
        """Add what a write has found at the fields that it is about."""
        rows = {row.cleaned_data["name"]: row for row in self.rows.used()}
        for name, found in errors.items():
            if name != "schema":
                self.add_error(name if name in self.fields else None, found)
                continue
            for place, texts in found.items():
                if row := rows.get(place.removeprefix("properties.").split(".")[0]):
                    row.add_error_at(place, texts)
                else:
                    self.add_error(None, [f"{place}: {text}" for text in texts])

    def based_on(self, current: Collection) -> None:
        """Let the next save replace this version."""
        data = self.data.copy()  # type: ignore[attr-defined]
        data["version"] = current.revision
        self.data = data

    @property
    def precondition(self) -> Callable[[Versioned], None]:
        """Precondition that the collection is as it was when the form was filled."""
        return catalogue.expect_revision(self.cleaned_data["version"])
