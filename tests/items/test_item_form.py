"""The form of an item: inputs for each type of value, attributes by their schema."""

from typing import Any

import pytest
from django.urls import reverse
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from items import catalogue, inputs, rules
from items.collections import editing
from items.models import Collection, Item
from tests.factories import TESTER, make_item
from tests.html_forms import untouched

pytestmark = [pytest.mark.once, pytest.mark.django_db]

NEW = "/items/-/new/"
PROPERTIES: dict[str, Any] = {
    "material": {"type": "string", "title": "Material", "description": "Of the body."},
    "note": {"type": "string", "maxLength": 2000},
    "length_mm": {"type": "integer", "minimum": 1.5, "maximum": 2**53},
    "weight": {"type": "number"},
    "coated": {"type": "boolean"},
    "head": {"type": "string", "enum": ["hex", "round"], "default": "hex"},
    "grade": {"type": "number", "enum": [8, 8.8]},
    "made_on": {"type": "string", "format": "date"},
    "seen_at": {"type": "string", "format": "date-time"},
    "page": {"type": "string", "format": "uri"},
    "mail": {"type": "string", "format": "email"},
    "sizes": {"type": "array", "items": {"type": "integer"}},
    "names": {"type": "array", "items": {"type": "string"}},
    "metal": {"type": "string", "x-reference": "metals"},
}
SCHEMA = {"properties": PROPERTIES, "required": ["material"]}
# What is typed, and what it is kept as.
TYPED = {
    "material": ("brass ", "brass"),
    "note": ("one\r\ntwo", "one\ntwo"),
    "length_mm": ("40", 40),
    "weight": (".5", 0.5),
    "coated": ("false", False),
    "head": ("round", "round"),
    "grade": ("8.8", 8.8),
    "made_on": ("2026-01-31", "2026-01-31"),
    "seen_at": ("2026-01-31T12:30", "2026-01-31T12:30:00Z"),
    "page": ("https://example.org/é", "https://example.org/é"),
    "mail": ("a@example.org", "a@example.org"),
    "sizes": ("1\r\n\r\n 2", [1, 2]),
    "names": ('a b\r\n"say ""\r\n" c"', ["a b", '"say ""', " c"]),
    "metal": ("Cu", "Cu"),
}
TYPED["page"] = ("https://example.org/", "https://example.org/")


@pytest.fixture
def bolts(db) -> Collection:
    editing.create_collection({"key": "metals", "name": "Metals"})
    make_item(collection="metals", code="Cu", name="Copper", tags=[])
    found = editing.create_collection(
        {"key": "bolts", "name": "Bolts", "schema": SCHEMA}
    )
    return Collection.objects.get(pk=found.key)


def sent(**attributes: str) -> dict[str, Any]:
    data = {f"attributes.{name}": text for name, text in attributes.items()}
    return {"collection": "bolts", "code": "M8", "name": "Bolt"} | data


def text(response: Any) -> str:
    return response.content.decode()


def test_every_type_of_attribute_has_an_input_that_is_read_as_its_type(
    editor_client, bolts
):
    form = editor_client.get(NEW, {"collection": "bolts"}).context["form"]
    kinds = {name: form.fields[f"attributes.{name}"].widget for name in PROPERTIES}
    types = {name: getattr(one, "input_type", "lines") for name, one in kinds.items()}
    assert types == {
        "material": "text", "note": "lines", "length_mm": "number", "weight": "number",
        "coated": "select", "head": "select", "grade": "select", "made_on": "date",
        "seen_at": "datetime-local", "page": "url", "mail": "email", "sizes": "lines",
        "names": "lines", "metal": "text",
    }  # fmt: skip
    assert kinds["length_mm"].attrs["min"] == 2
    assert form["attributes.head"].value() == "hex"
    assert form["status"].value() == "active"
    assert [f.label for f in form if f.field.required] == ["Name", "Material"]

    data = sent(**{name: typed for name, (typed, _) in TYPED.items()})
    response = editor_client.post(NEW, data)
    assert response.status_code == 302, response.context["form"].errors
    kept = catalogue.get_item("bolts.M8").attributes
    assert kept == {name: value for name, (_, value) in TYPED.items()}
    assert type(kept["grade"]) is float


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({}, "material"),
        ({"material": "x", "length_mm": "4.5"}, "length_mm"),
        ({"material": "x", "length_mm": "1"}, "length_mm"),
        ({"material": "x", "weight": "1_0"}, "weight"),
        ({"material": "x", "weight": "1e999"}, "weight"),
        ({"material": "x", "coated": "maybe"}, "coated"),
        ({"material": "x", "head": "square"}, "head"),
        ({"material": "x", "seen_at": "noon"}, "seen_at"),
        ({"material": "x", "sizes": "1\n2x"}, "sizes"),
        ({"material": "x", "metal": "Xx"}, "metal"),
        ({"material": "x" * 4001}, "material"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_attribute_is_an_error_at_its_input(
    editor_client, bolts, attributes, name
):
    response = editor_client.post(NEW, sent(**attributes))
    assert response.status_code == 422
    assert set(response.context["form"].errors) == {f"attributes.{name}"}
    assert f'href="#id_attributes.{name}"' in text(response)
    typed = response.context["form"][f"attributes.{name}"].value()
    assert typed == attributes.get(name)


def test_errors_of_attributes_are_shown_with_all_others(editor_client, bolts):
    data = sent(length_mm="1") | {"name": "", "valid_to": "never"}
    errors = editor_client.post(NEW, data).context["form"].errors
    assert set(errors) == {
        "name", "valid_to", "attributes.material", "attributes.length_mm",
    }  # fmt: skip
    assert len(errors["attributes.material"]) == 1


def test_attributes_without_a_schema_are_rows(editor_client):
    rows = {
        "count": "12", "code": '"12"', "is_new": "true", "sizes": "[1, 2]",
        "plain": "not {json", "dropped": "", "": "",
    }  # fmt: skip
    data = {"id": "bolt", "name": "Bolt"}
    data |= {"attributes-name": [*rows], "attributes-value": [*rows.values()]}
    assert editor_client.post(NEW, data).status_code == 302
    assert catalogue.get_item("bolt").attributes == {
        "count": 12, "code": "12", "is_new": True, "sizes": [1, 2],
        "plain": "not {json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "field", "message"),
    [
        ({"labels-language": "", "labels-text": "Bolzen"}, "labels", "no language"),
        (
            {"labels-language": ["de", "DE"], "labels-text": ["a", "b"]},
            "labels",
            "two labels for “de”",
        ),
        ({"labels-language": "!", "labels-text": "x"}, "labels", "language tag"),
        ({"attributes-name": "", "attributes-value": "1"}, "attributes", "no name"),
        (
            {"attributes-name": ["a", "a"], "attributes-value": ["1", "2"]},
            "attributes",
            "two values of “a”",
        ),
        (
            {"attributes-name": "a", "attributes-value": '{"b": 1}'},
            "attributes",
            "Must be text",
        ),
        ({"aliases": "x" * 201}, "aliases", "at most 200"),
        (
            {"links-relation": "exactMatch", "links-target": "nix"},
            "links",
            "no item “nix”",
        ),
    ],
)
def test_wrong_row_is_an_error_at_its_rows(editor_client, sent, field, message):
    response = editor_client.post(NEW, {"name": "Bolt"} | sent)
    assert response.status_code == 422
    [[name, [error]]] = response.context["form"].errors.items()
    assert (name, message in error) == (field, True), error
    assert Item.objects.count() == 0


def test_attribute_that_a_closed_schema_does_not_know_is_shown_as_a_row(
    editor_client, bolts
):
    make_item(collection="bolts", code="M8", attributes={"material": "x"})
    Item.objects.filter(pk="bolts.M8").update(attributes={"material": "x", "old": 1})
    page = editor_client.get("/items/bolts.M8/edit/")
    form = untouched(text(page))
    assert (form["attributes-name"], form["attributes-value"]) == (
        ["old", ""],
        ["1", ""],
    )
    form["attributes-value"] = ["2", ""]
    response = editor_client.post("/items/bolts.M8/edit/", form)
    [error] = response.context["form"].errors["attributes"]
    assert "old: There is no such attribute." in error
    form["attributes-value"] = ["", ""]
    assert editor_client.post("/items/bolts.M8/edit/", form).status_code == 302
    assert catalogue.get_item("bolts.M8").attributes == {"material": "x"}


def test_button_adds_and_removes_a_row_and_saves_nothing(editor_client):
    data = {
        "name": "", "links-relation": ["exactMatch", "closeMatch"],
        "links-target": ["a", "b"], "labels-language": ["de", "fr"],
        "labels-text": ["x", "y"],
    }  # fmt: skip
    response = editor_client.post(NEW, data | {"add": "labels"})
    assert response.status_code == 200
    shown = untouched(text(response))
    assert shown["labels-language"] == ["de", "fr", ""]
    response = editor_client.post(NEW, shown | {"add": "labels"})
    shown = untouched(text(response))
    assert shown["labels-text"] == ["x", "y", "", ""]
    response = editor_client.post(NEW, shown | {"remove": "links-0"})
    shown = untouched(text(response))
    assert shown["links-target"] == ["b", ""]
    assert shown["links-relation"] == ["closeMatch", "exactMatch"]
    for nonsense in ({"remove": "links-9"}, {"remove": "x"}, {"add": "name"}):
        assert editor_client.post(NEW, shown | nonsense).status_code == 200
    assert not Item.objects.exists()


def test_another_collection_has_its_own_inputs_and_takes_what_was_typed(
    editor_client, bolts
):
    nuts = {
        "properties": {"material": {"type": "string"}, "weight": {"type": "string"}}
    }
    editing.create_collection({"key": "nuts", "name": "Nuts", "schema": nuts})
    attributes = {"material": "x", "weight": 1.5, "sizes": [1, 2]}
    make_item(collection="bolts", code="M8", attributes=attributes)
    form = untouched(text(editor_client.get("/items/bolts.M8/edit/")))
    form["attributes.material"] = ["y"]
    # Also without the button: what is to be saved is shown first.
    for button in ({"change": "collection"}, {}):
        moved = form | button | {"collection": ["nuts"]}
        response = editor_client.post("/items/bolts.M8/edit/", moved)
        assert response.status_code == 200
        assert "are now those of “Nuts”" in text(response)
        shown = untouched(text(response))
        assert shown["attributes.material"] == ["y"]
        assert shown["attributes.weight"] == ["1.5"]
        assert shown["attributes-name"] == ["head", "sizes", ""]
        assert shown["attributes-value"] == ["hex", "[1,2]", ""]
    assert catalogue.get_item("bolts.M8").version == 1
    shown["attributes-name"] = [""]
    shown["attributes-value"] = [""]
    response = editor_client.post("/items/bolts.M8/edit/", shown)
    assert response.status_code == 302, response.context["form"].errors
    item = catalogue.get_item("bolts.M8")
    assert item.collection_id == "nuts"
    assert item.attributes == {"material": "y", "weight": "1.5"}


def test_parent_and_successor_may_be_given_by_code(editor_client, bolts):
    for code in ("M8", "M9"):
        make_item(collection="bolts", code=code, attributes={"material": "x"})
    make_item(id="M8", name="Of another collection")
    form = untouched(text(editor_client.get("/items/bolts.M9/edit/")))
    form |= {"parent": ["M8"], "replaced_by": ["bolts.M8"]}
    assert editor_client.post("/items/bolts.M9/edit/", form).status_code == 302
    item = catalogue.get_item("bolts.M9")
    assert (item.parent_id, item.replaced_by_id) == ("bolts.M8", "bolts.M8")


def test_suggestions_are_items_that_the_typed_text_finds(client, editor_client, bolts):
    make_item(id="copper", name="Copper coin")

    def options(**query: str) -> str:
        return text(editor_client.get(reverse("items:suggestions"), query))

    both = options(input="links-target", **{"links-target": "copp"})
    assert "metals.Cu" in both
    assert 'value="copper"' in both
    one = options(input="parent", parent="copp", collection="metals")
    assert '<option value="metals.Cu">Copper (Cu)</option>' in one
    assert "coin" not in one
    code = options(input="x", x="copp", collection="metals", by_code="1")
    assert 'value="Cu"' in code
    for nothing in ("", " ", "x" * 300, "\0"):
        assert "<option" not in options(input="x", x=nothing)
    client.logout()
    assert client.get(reverse("items:suggestions")).status_code == 302


# --- what is opened and saved unchanged, is unchanged

lines = st.text(max_size=8)
scalars = st.one_of(
    lines,
    st.sampled_from(["12", "true", "null", '"x"', "[1]", "a\nb", " a ", "NaN", "1e5"]),
    st.booleans(),
    st.integers(-rules.INTEGER_MAX, rules.INTEGER_MAX),
    st.floats(-1e15, 1e15, allow_nan=False),
)
values = st.one_of(scalars, st.lists(scalars, max_size=3))
times = st.sampled_from(
    ["2026-01-31T12:30:00Z", "2026-01-31T12:30:00+02:00", "2026-01-31T12:30:00.250Z",
     "2026-01-31T12:30:00.123456Z", "2026-12-31T23:59:60Z", "2026-01-31t00:00:00z"]
)  # fmt: skip
typed = st.fixed_dictionaries(
    {"material": lines},
    optional={
        "note": lines,
        "length_mm": st.integers(2, 2**53 - 1),
        "weight": st.floats(-1e15, 1e15, allow_nan=False),
        "coated": st.booleans(),
        "head": st.sampled_from(["hex", "round"]),
        "grade": st.sampled_from([8, 8.8]),
        "made_on": st.sampled_from(["2026-01-31", "0001-01-01", "9999-12-31"]),
        "seen_at": times,
        "page": st.sampled_from(["urn:isbn:1", "https://example.org/?a=b&c"]),
        "sizes": st.lists(st.integers(-9, 9), max_size=3),
        "names": st.lists(lines, max_size=3),
        "metal": st.just("Cu"),
        # What an earlier schema allowed.
        "old": values,
    },
)
loose = st.dictionaries(
    st.from_regex(r"[a-z]{1,3}", fullmatch=True), values, max_size=4
)
labels = st.dictionaries(
    st.sampled_from(["DE", "pt-br", "zh-hant-TW", "x-A"]), lines, max_size=4
)


def cleaned(clean: Any, value: Any) -> Any:
    """Return the value as it is stored, or the empty one if it may not be."""
    try:
        return clean(value)
    except ValueError:
        return type(value)()


@pytest.fixture
def two_items(bolts) -> None:
    make_item(collection="bolts", code="M8", attributes={"material": "x"})
    make_item(id="plain", name="Plain", description=" a\n\n b ")


@settings(
    max_examples=6,
    # Without shrinking: each example takes requests.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(typed=typed, loose=loose, labels=labels, aliases=st.lists(lines, max_size=3))
def test_item_saved_as_it_was_opened_is_unchanged(
    editor_client, two_items, typed, loose, labels, aliases
):
    typed = cleaned(rules.clean_attributes, typed) or {"material": "x"}
    for pk, attributes in (("bolts.M8", typed), ("plain", loose)):
        # As any way of writing may have left it.
        Item.objects.filter(pk=pk).update(
            attributes=cleaned(rules.clean_attributes, attributes),
            labels=cleaned(rules.clean_labels, labels),
            aliases=cleaned(rules.clean_aliases, aliases),
            links=rules.clean_links([{"relation": "relatedMatch", "target": "plain"}]),
        )
        before = catalogue.get_item(pk)
        address = f"/items/{pk}/edit/"
        form = untouched(text(editor_client.get(address)))
        response = editor_client.post(address, form)
        assert response.status_code == 302, response.context["form"].errors
        after = catalogue.get_item(pk)
        assert after.state() == before.state()
        assert after.version == before.version


@given(value=values)
def test_text_of_any_attribute_is_read_as_the_same_value(value):
    value = cleaned(rules.clean_attribute, value)
    assert inputs.read_any(inputs.show_any(value)) == value
    assert "\n" not in inputs.show_any(value)


@given(typed=typed)
def test_attribute_of_which_the_text_was_not_edited_is_kept_as_it_is(typed):
    for name, stored in cleaned(rules.clean_attributes, typed).items():
        declared = PROPERTIES.get(name)
        if declared is None:
            continue
        field = inputs.AttributeField("", declared, required=True, stored=stored)
        shown = inputs.show(declared, stored)
        assert field.clean(shown.replace("\n", "\r\n")) == stored
        # Nor where a browser writes it in another way.
        if "number" in declared["type"]:
            assert field.clean(f" {shown} ") == stored


def test_conflict_is_shown_by_attribute(editor_client, bolts):
    attributes = {"material": "x", "weight": 1, "head": "hex"}
    make_item(collection="bolts", code="M8", attributes=attributes)
    form = untouched(text(editor_client.get("/items/bolts.M8/edit/")))
    theirs = {"material": "theirs", "coated": True, "head": "hex"}
    catalogue.update_item("bolts.M8", {"attributes": theirs}, actor=TESTER)
    form["attributes.material"] = ["mine"]
    response = editor_client.post("/items/bolts.M8/edit/", form)
    assert response.status_code == 409
    differing = {
        row["label"]: row["value"]
        for row in response.context["compared"]
        if row["is_different"]
    }
    assert differing == {"Material": ["theirs"], "Weight": [], "Coated": ["Yes"]}
    again = untouched(text(response))
    assert again["attributes.material"] == ["mine"]
    assert editor_client.post("/items/bolts.M8/edit/", again).status_code == 302
    kept = catalogue.get_item("bolts.M8").attributes
    assert kept == {"material": "mine", "weight": 1, "head": "hex"}
