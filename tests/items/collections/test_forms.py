"""A schema in the rows of the form, and back."""

from urllib.parse import urlencode

import pytest
from django import forms as django_forms
from django.http import QueryDict
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from items.collections.forms import CollectionForm
from items.collections.schema import SCALARS, clean_schema
from items.collections.wording import from_lines, to_lines
from items.models import Collection
from resilient_site.errors import Invalid

pytestmark = pytest.mark.once

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, width=32)
VALUES = {
    "string": TEXTS | st.sampled_from(["a, b", '"quoted"', " a ", "a\nb", ""]),
    "integer": st.integers(-(2**53), 2**53),
    "number": NUMBERS.filter(lambda number: abs(number) < 2**53),
    "boolean": st.booleans(),
}
KEYWORDS = {
    "pattern": st.sampled_from(["^[A-Z]{2}$", " *", "a\nb", ""]),
    "minLength": st.integers(0, 9),
    "maxLength": st.integers(10, 100_000),
    "format": st.sampled_from(["date", "date-time", "uri", "email"]),
    "minimum": VALUES["number"],
    "maximum": VALUES["number"],
}
ANNOTATIONS = {
    "title": TEXTS,
    "description": TEXTS,
    "x-searchable": st.booleans(),
    "x-filterable": st.booleans(),
}


def scalars(**more):
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just(kind)},
            optional={
                "enum": st.lists(VALUES[kind], min_size=1, max_size=3, unique=True),
                **{name: KEYWORDS[name] for name in own},
                **more,
            },
        )
        for kind, own in SCALARS.items()
    )


@st.composite
def attributes(draw):
    size, flag = st.integers(0, 9), st.booleans()
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={
            "items": scalars(), "minItems": size, "maxItems": size,
            "uniqueItems": flag, **ANNOTATIONS,
        },
    )  # fmt: skip
    keys = st.sampled_from(["metals", "cost-center"])
    single = scalars(**ANNOTATIONS, **{"x-unique": flag, "x-reference": keys})
    declared = draw(single | arrays)
    if draw(st.booleans()):
        is_array = declared["type"] == "array"
        part = declared.get("items", declared)
        values = VALUES.get(part["type"], TEXTS)
        values = st.sampled_from(part["enum"]) if "enum" in part else values
        declared["default"] = draw(st.lists(values, max_size=2) if is_array else values)
    return declared


NAMES = st.sampled_from(["size", "metal", "zinc", "a", "Length_mm"])
REST = st.fixed_dictionaries(
    {},
    optional={
        "$schema": st.just("https://json-schema.org/draft/2020-12/schema"),
        "type": st.just("object"),
        "title": TEXTS,
        "description": TEXTS,
        "additionalProperties": st.booleans(),
    },
)


@st.composite
def schemas(draw, min_size=0):
    schema = draw(REST)
    properties = draw(
        st.dictionaries(NAMES, attributes(), min_size=min_size, max_size=3)
    )
    if properties or draw(st.booleans()):
        schema["properties"] = properties
        names = st.lists(st.sampled_from(list(properties) or ["-"]), unique=True)
        for keyword in ("required", "x-order"):
            if draw(st.booleans()):
                schema[keyword] = draw(names) if properties else []
    try:
        return clean_schema(schema)
    except Invalid:  # most often by the default
        assume(False)


def sent(form: CollectionForm) -> QueryDict:
    """What a browser sends of the form as it is shown."""
    data = QueryDict(mutable=True)
    data["attributes-TOTAL_FORMS"], data["attributes-INITIAL_FORMS"] = len(form.rows), 0
    for field in [*form, *(field for row in form.rows for field in row)]:
        widget, value = field.field.widget, field.value()
        if isinstance(widget, django_forms.CheckboxInput):
            if value:
                data[field.html_name] = "on"
            continue
        text = str(value or "").replace("\r\n", "\n").replace("\r", "\n")
        is_long = isinstance(widget, django_forms.Textarea)
        data[field.html_name] = text.replace("\n", "\r\n" if is_long else "")
    return data


def collection_of(schema) -> Collection:
    return Collection(key="bolts", name="Bolts", schema=schema)


def written(bolts: Collection, **changes: str):
    data = sent(CollectionForm(instance=bolts))
    for name, value in changes.items():
        data[name] = value
    form = CollectionForm(data, instance=bolts)
    assert form.is_valid(), (form.errors, form.rows.errors)
    return form.data_to_write


ODD = {
    "properties": {
        "a": {"type": "array", "uniqueItems": True, "maxItems": 2},
        "zinc": {"type": "integer", "x-reference": "metals", "x-unique": False},
        "size": {"type": "string", "format": "date", "x-reference": "metals"},
        "metal": {"type": "array", "items": {"type": "string"}, "default": ["a\n", ""]},
    },
    "required": ["zinc"],
    "x-order": ["zinc", "a", "size", "metal"],
}


@settings(max_examples=40)
@given(schemas())
@example(clean_schema(ODD))
@example({"properties": {"a": {"type": "string", "enum": ["", "x", '"', " y", "1\r"]}}})
@example({"properties": {"a": {"type": "number", "enum": [1e22, -0.0, 5e-324]}}})
def test_schema_that_is_saved_unchanged_stays_the_same(schema):
    bolts = collection_of(schema)
    assert "schema" not in written(bolts)


@settings(max_examples=40)
@given(schemas(min_size=1), st.data())
@example(clean_schema(ODD), None)
def test_change_of_one_field_keeps_all_that_the_form_does_not_show(before, data):
    names = list(before["properties"])
    at = data.draw(st.integers(0, len(names) - 1)) if data else 0
    assume(before["properties"][names[at]].get("title") != "Titanium")
    changes = {f"attributes-{at}-title": "Titanium"}
    after = written(collection_of(before), **changes)["schema"]
    titled = before["properties"][names[at]] | {"title": "Titanium"}
    assert after == before | {"properties": before["properties"] | {names[at]: titled}}


@given(
    st.sampled_from(list(VALUES)).flatmap(
        lambda kind: st.tuples(st.just(kind), st.lists(VALUES[kind]))
    )
)
def test_values_written_on_lines_are_read_as_they_were(case):
    kind, values = case
    assert from_lines(to_lines(values), kind) == values


@pytest.mark.parametrize(
    ("typed", "declared"),
    [
        (
            {"kind": "string", "values": "a, b\r\n\r\n x ", "minimum": "1"},
            {"type": "string", "enum": ["a, b", "x"], "minLength": 1},
        ),
        (
            {"kind": "integer", "values": "3\n-1\n3\n2.0", "minimum": "-1.5"},
            {"type": "integer", "enum": [3, -1, 2], "minimum": -1.5},
        ),
        (
            {"kind": "number", "default": "1.5", "maximum": "1e3"},
            {"type": "number", "default": 1.5, "maximum": 1000},
        ),
        (
            {"kind": "boolean", "default": "No", "is_filterable": "on"},
            {"type": "boolean", "default": False, "x-filterable": True},
        ),
        (
            {"kind": "date", "title": " Day ", "is_unique": "on", "more": "on"},
            {"type": "string", "format": "date", "title": "Day", "x-unique": True},
        ),
        (
            {"kind": "reference", "reference": "metals", "is_searchable": "on"},
            {"type": "string", "x-reference": "metals", "x-searchable": True},
        ),
        (
            {"kind": "integer", "is_list": "on", "maximum": "9", "default": "1\n2"},
            {
                "type": "array",
                "default": [1, 2],
                "items": {"type": "integer", "maximum": 9},
            },
        ),
        # Only of another type.
        ({"kind": "string", "reference": "metals"}, {"type": "string"}),
    ],
    ids=str,
)
def test_row_makes_an_attribute(typed, declared):
    row = {"name": "it", "is_required": "on"} | typed
    changes = {f"attributes-0-{name}": value for name, value in row.items()}
    changes["attributes-TOTAL_FORMS"] = "1"
    schema = written(collection_of({}), **changes)["schema"]
    assert schema == {"properties": {"it": declared}, "required": ["it"]}


def test_another_type_drops_what_only_the_one_before_had():
    before = {
        "type": "array", "items": {"type": "string"}, "maxItems": 2, "title": "Metals",
    }  # fmt: skip
    bolts = collection_of({"properties": {"it": before}})
    for kind in ("string", "uri"):  # that of its values
        changes = {"attributes-0-kind": kind, "attributes-0-name": "new"}
        found = written(bolts, **changes)["schema"]["properties"]
        is_same = kind == "string"
        assert ("maxItems" in found["new"], found["new"]["title"]) == (
            is_same,
            "Metals",
        )


def test_renamed_attribute_keeps_its_place_and_stays_required():
    bolts = collection_of(clean_schema(ODD))
    schema = written(bolts, **{"attributes-0-name": "zn"})["schema"]
    assert schema["x-order"] == ["zn", "a", "size", "metal"]
    assert schema["properties"]["zn"] == ODD["properties"]["zinc"]
    assert schema["required"] == ["zn"]


def test_too_many_attributes_are_an_error():
    data = {"key": "bolts", "name": "Bolts", "attributes-INITIAL_FORMS": "0"}
    data |= {"attributes-TOTAL_FORMS": "201"}
    data |= {f"attributes-{n}-kind": "string" for n in range(201)}
    form = CollectionForm(QueryDict(urlencode(data)))
    assert not form.is_valid()
    assert "200" in form.rows.non_form_errors()[0]
