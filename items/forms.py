"""Forms of the pages and the admin, made from the declarations in `items.fields`."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import orjson
from django import forms
from django.db.models import Q
from django.forms.utils import ErrorDict
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from items import catalogue, fields, inputs, integrity, rules
from items.collections.schema import compile_schema
from items.field_types import (
    ChoiceField,
    CleanedFormField,
    ItemField,
    ReferenceFormField,
)
from items.fields import ItemData
from items.inputs import (
    ATTRIBUTES,
    ATTRIBUTES_OF,
    PREFIX,
    AttributeField,
    RowsWidget,
)
from items.models import Collection, Item
from items.presentation import shown_attributes

NO_SCHEMA = compile_schema({})


class ItemForm(forms.ModelForm):  # type: ignore[type-arg]
    """An item as people write it, on the pages and in the admin."""

    # One form field for every declared field; a class body may add to its namespace.
    locals().update({field.name: CleanedFormField(field) for field in fields.FIELDS})
    version = forms.CharField(required=False, widget=forms.HiddenInput)

    field_order: tuple[str, ...] = ("name",)

    class Meta:
        model = Item
        fields = ()  # all are declared

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_edit():
            del self.fields["id"]
            self.initial |= self.instance.state() | {"version": self.instance.revision}
            self.fields["version"].required = True
        else:
            chosen = (f for f in fields.FIELDS if isinstance(f, ChoiceField))
            self.initial = {f.name: f.default for f in chosen} | dict(self.initial)

    def is_edit(self) -> bool:
        return bool(self.instance.pk)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            before = self.instance.state() if self.is_edit() else None
            errors = integrity.errors_of(
                self.instance.pk or None, before, self.data_to_write()
            )
            for name, found in errors.items():
                if isinstance(found, dict):
                    self.place_errors(name, found)
                else:
                    self.add_error(name if name in self.fields else None, found)
        return cleaned

    def place_errors(self, name: str, by_attribute: dict[str, list[str]]) -> None:
        """Show what is wrong at the input of the attribute, if there is one."""
        for one, texts in by_attribute.items():
            place = f"{name}.{one}"
            if place not in self.fields:
                at = name if name in self.fields else None
                self.add_error(at, f"{one}: {' '.join(texts)}")
            elif place not in self.errors:
                self.add_error(place, texts)

    def _post_clean(self) -> None:
        """Leave the instance alone: `items.catalogue` writes, not the form."""

    def data_to_write(self) -> ItemData:
        declared = {field.name for field in fields.FIELDS}
        return {
            name: value
            for name, value in self.cleaned_data.items()
            if name in declared
            and not (value is None and name in fields.ABSENT_IF_NONE)
        }

    @property
    def precondition(self) -> catalogue.Precondition:
        """Precondition that the item is as it was when the form was filled."""
        return catalogue.expect_revision(self.cleaned_data["version"])


class Section(NamedTuple):
    """Fields that are shown together; the first one has those that no other has."""

    heading: str
    names: tuple[str, ...]


SECTIONS = (
    Section("", ("collection", "id", "code", "name")),
    Section("Attributes", (ATTRIBUTES,)),
    Section("Other names", ("labels", "aliases")),
    Section("Status and validity", ("status", "valid_from", "valid_to")),
    Section("Relations", ("parent", "replaced_by", "links")),
)


class ItemPageForm(ItemForm):
    """The same with inputs for each type of value, attributes by their schema.

    A button may send it to be changed: for another row, or for the attributes of
    another collection. Then it is not valid, and has no errors.
    """

    locals().update({field.name: field.form_field() for field in fields.FIELDS})

    field_order = SECTIONS[0].names

    def __init__(
        self, data: Any = None, *, instance: Item | None = None, key: str = ""
    ) -> None:
        self.is_revision = data is not None and inputs.is_revision(data)
        super().__init__(data, instance=instance)
        own = self.instance.collection_id if self.is_edit() else key or rules.GENERAL
        sent = data.get("collection", own) if data is not None else own
        # No database takes a null character; the field itself refuses it.
        self.key = (sent or rules.GENERAL).replace("\0", "")
        self.chosen = Collection.objects.filter(pk=self.key).first()
        self.schema = self.chosen.attributes if self.chosen else NO_SCHEMA
        # What was typed for another schema stands for itself.
        is_kept = self.is_edit() and self.instance.collection_id == self.key
        self.stored = dict(self.instance.attributes) if is_kept else {}
        self._add_attributes()
        self._offer_collections()
        self._offer_items()
        if self.is_revision:
            self.data = data.copy()
            self._revise()

    def _add_attributes(self) -> None:
        """Add an input for each attribute of the schema; the rest are rows."""
        required = self.schema.schema.get("required", ())
        defaults = {} if self.is_edit() else self.schema.defaults
        for name, declared in self.schema.properties.items():
            place = PREFIX + name
            self.fields[place] = AttributeField(
                self.schema.title(name),
                declared,
                required=name in required,
                stored=self.stored.get(name),
            )
            self.initial[place] = self.stored.get(name, defaults.get(name))
        self.initial[ATTRIBUTES] = {
            name: value
            for name, value in self.stored.items()
            if name not in self.schema.properties
        }

    def _offer_collections(self) -> None:
        rows = Collection.objects.order_by("name", "key").values_list("key", "name")
        choices = [(key, f"{name} ({key})") for key, name in rows]
        if self.chosen is None:
            choices.append((self.key, self.key))
        # What was typed for the attributes is sent along.
        attrs = {
            "hx-post": "",
            "hx-vals": orjson.dumps({inputs.CHANGE: "collection"}).decode(),
            "hx-target": "#main",
            "hx-select": "#main",
            "hx-swap": "outerHTML",
        }
        self.fields["collection"].widget = forms.Select(attrs, choices=choices)
        self.initial["collection"] = self.key
        field = self.fields["collection"]
        field.help_text = "The code list it belongs to, which has its attributes."
        field.is_chosen = True  # type: ignore[attr-defined]
        has_others = bool(self.schema.properties)
        label = "Other attributes" if has_others else "Names and values"
        self.fields[ATTRIBUTES].label = label

    def _offer_items(self) -> None:
        """Let inputs that refer to another item suggest some by what is typed."""
        for name in ("parent", "replaced_by"):
            field = self.fields.get(name)
            if isinstance(field, ReferenceFormField):
                field.find_id = partial(find_id, self.key)
                field.widget.attrs |= suggestions(name, collection=self.key)
        links = self.fields["links"].widget
        if isinstance(links, RowsWidget):
            relation, target = links.columns
            attrs = suggestions("links-target")
            links.columns = (relation, target._replace(attrs=attrs))
            links.datalist = attrs["list"]
        for name, key in self.schema.references.items():
            widget = self.fields[PREFIX + name].widget
            if isinstance(widget, forms.TextInput):
                widget.attrs |= suggestions(PREFIX + name, collection=key, by_code="1")

    def _revise(self) -> None:
        rows = {name: field.widget for name, field in self.fields.items()}
        inputs.revise_rows(
            self.data, {n: w for n, w in rows.items() if isinstance(w, RowsWidget)}
        )
        before = self.data.get(ATTRIBUTES_OF, self.key)
        if before != self.key:
            found = Collection.objects.filter(pk=before).first()
            schema = found.attributes if found else NO_SCHEMA
            defaults = {} if self.is_edit() else self.schema.defaults
            inputs.move_attributes(self.data, schema, self.schema, dict(defaults))

    @property
    def has_moved(self) -> bool:
        """Whether the attributes are now those of another collection."""
        return self.is_revision and self.data.get(ATTRIBUTES_OF, self.key) != self.key

    def is_valid(self) -> bool:
        return not self.is_revision and super().is_valid()

    def full_clean(self) -> None:
        if self.is_revision:
            self._errors = ErrorDict(renderer=self.renderer)
        else:
            super().full_clean()

    def clean(self) -> dict[str, Any]:
        """Make one object of the attributes in inputs and in rows."""
        cleaned = self.cleaned_data
        if ATTRIBUTES in cleaned:
            rest = cleaned[ATTRIBUTES]
            names = [n for n in self.schema.properties if PREFIX + n in cleaned]
            if twice := [name for name in names if name in rest]:
                message = f"“{twice[0]}” has an input of its own."
                self.add_error(ATTRIBUTES, message)
                return cleaned
            typed = {name: cleaned[PREFIX + name] for name in names}
            try:
                cleaned[ATTRIBUTES] = rules.clean_attributes(typed | rest)
            except ValueError as error:
                self.add_error(ATTRIBUTES, str(error))
        if self.errors and (attributes := cleaned.get(ATTRIBUTES)) is not None:
            # All at once, also with errors of other fields.
            self.place_errors(ATTRIBUTES, self.schema.errors(attributes))
        return super().clean()

    def sections(self) -> Iterator[tuple[str, list[forms.BoundField]]]:
        places = {name: s.heading for s in SECTIONS for name in s.names}
        found: dict[str, list[forms.BoundField]] = {s.heading: [] for s in SECTIONS}
        for field in self.visible_fields():
            name = ATTRIBUTES if field.name.startswith(PREFIX) else field.name
            found[places.get(name, "")].append(field)
        # The inputs of the schema come before the rows, which a closed schema has not.
        attributes = sorted(found["Attributes"], key=lambda f: f.name == ATTRIBUTES)
        found["Attributes"] = [f for f in attributes if self._is_of_use(f)]
        yield from ((heading, shown) for heading, shown in found.items() if shown)

    def _is_of_use(self, field: forms.BoundField) -> bool:
        return (
            field.name != ATTRIBUTES
            or not self.schema.is_closed
            or bool(field.value() or field.errors)
        )

    def compare(self, other: Item) -> Iterator[dict[str, Any]]:
        """Yield every field of `other`, and whether it differs from what was typed."""
        for field in fields.STATE_FIELDS:
            value = field.read(other)
            own = self.cleaned_data.get(field.name, value)
            if field.name == ATTRIBUTES:
                yield from self._compare_attributes(field, value, own)
                continue
            yield {
                "label": field.label,
                "field": field,
                "value": field.shown(value),
                "is_different": value != own,
            }

    def _compare_attributes(
        self, field: ItemField, theirs: ItemData, own: ItemData
    ) -> Iterator[dict[str, Any]]:
        both = {name: theirs.get(name) for name in (*theirs, *own)}
        shown = {one.name: one for one in shown_attributes(self.schema, both)}
        for name, one in shown.items():
            yield {
                "label": one.title,
                "field": field,
                "value": one.values if name in theirs else [],
                "is_different": theirs.get(name) != own.get(name),
            }


class RetireForm(ItemPageForm):
    """What is to be said of a code that is not to be used any more."""

    names = ("replaced_by", "valid_to", "version")

    def __init__(self, data: Any = None, *, instance: Item) -> None:
        super().__init__(data, instance=instance)
        self.fields = {name: self.fields[name] for name in self.names}
        self.initial["valid_to"] = instance.valid_to or timezone.now().date()

    def clean(self) -> dict[str, Any]:
        self.cleaned_data["status"] = rules.RETIRED
        return ItemForm.clean(self)


def find_id(key: str, text: str) -> str:
    """Return the id of the item of this collection that has this id or code."""
    named = Item.objects.filter(collection=key).filter(Q(pk=text) | Q(code=text))
    is_possible = text and "\0" not in text
    found = list(named.values_list("pk", flat=True)[:2]) if is_possible else []
    return text if text in found or not found else found[0]


def suggestions(name: str, **about: str) -> dict[str, str]:
    """Return the attributes of an input that suggests items by what is typed."""
    query = urlencode({"input": name, **about})
    places = f"{name.replace('.', '-')}-suggestions"
    return {
        "list": places,
        "autocomplete": "off",
        "hx-get": f"{reverse('items:suggestions')}?{query}",
        "hx-trigger": "input changed delay:200ms",
        "hx-target": f"#{places}",
        "hx-sync": "this:replace",
    }
