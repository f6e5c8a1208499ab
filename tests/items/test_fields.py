"""A declared field goes every way in and out, with nothing else made for it.

Plain ones are given a value by their type, so that a new one is tested as soon as it
is declared.
"""

import json

import pytest
import yaml
from django.http import QueryDict

from items import catalogue
from items.field_types import ChoiceField, DateField, ItemField, TextField
from items.fields import READ_ONLY, STATE_FIELDS
from items.imports import exporting
from items.list_query import ListQuery
from items.models import Item, ItemChange
from tests.factories import TESTER, changes_of, make_item
from tests.html_forms import untouched
from tests.items.imports.factories import counts, load
from tests.running import ROOT

pytestmark = pytest.mark.django_db

URL = "/api/v1/items/x"
PLAIN = [f for f in STATE_FIELDS if type(f) in (TextField, ChoiceField, DateField)]


def value_of(field: ItemField) -> str:
    match field:
        case ChoiceField():
            return field.choices[-1]
        case DateField():
            return "2026-11-30"
    return f"Another{field.name}"


VALUES = {field.name: value_of(field) for field in PLAIN}


def assert_item_has_all() -> None:
    item = catalogue.get_item("x")
    assert VALUES.items() <= item.state().items()
    assert item.state() == changes_of("x").first().after


@pytest.mark.parametrize("kind", ["application/json", "application/merge-patch+json"])
def test_every_field_is_written_and_read_over_rest(api, kind):
    body = VALUES | {"id": "x"}
    assert VALUES.items() <= api.post("/api/v1/items", body).json().items()
    assert_item_has_all()
    cleared = api.put(URL, {"name": "N"}).json()
    empty = {f.name: f.empty() for f in PLAIN} | {"name": "N"}
    assert empty.items() <= cleared.items()
    changed = api.generic("PATCH", URL, json.dumps(VALUES), kind)
    assert changed.json() == api.get(URL).json()
    assert_item_has_all()


@pytest.mark.once
def test_every_field_is_written_and_shown_by_pages_and_the_admin(client, admin):
    client.force_login(admin)
    page_form = untouched(client.get("/items/-/new/").content.decode())
    assert VALUES.keys() <= page_form.keys()
    sent = page_form | VALUES | {"id": "x"}
    assert client.post("/items/-/new/", sent).status_code == 302
    assert_item_has_all()
    page = client.get("/items/x/").content.decode()
    for field in PLAIN:
        assert str(field.shown(VALUES[field.name])) in page
    empty = {field.name: field.empty() for field in PLAIN}
    catalogue.update_item("x", empty | {"name": "N"}, actor=TESTER)
    history = client.get("/items/x/").content.decode()
    for field in PLAIN:
        assert f"<dt>{field.label}</dt>" in history
    catalogue.delete_item("x", actor=TESTER)
    sent = VALUES | {"id": "x"}
    assert client.post("/admin/items/item/add/", sent).status_code == 302
    assert_item_has_all()


@pytest.mark.parametrize("name", exporting.FORMATS)
def test_every_field_is_exported_and_imported(name, tmp_path):
    make_item(id="x", **VALUES)
    content = b"".join(exporting.export(name, Item.objects.for_reading()))
    Item.objects.all().delete()
    ItemChange.objects.all().delete()
    assert counts(load(content, tmp_path)) == (1, 0, 0, 0)
    assert_item_has_all()
    assert counts(load(content, tmp_path)) == (0, 0, 1, 0)
    for field in PLAIN:
        other = "Nut" if field.is_required else ""
        assert counts(load(f"id,{field.name}\nx,{other}\n", tmp_path)) == (0, 1, 0, 0)
        change = changes_of("x").first()
        assert [f.name for f, _, _ in change.differences()] == [field.name]
        catalogue.undo(change, actor=TESTER)
    assert_item_has_all()


def test_every_searched_or_filtered_field_finds_its_items():
    make_item(id="x", **VALUES)
    make_item(id="y", name="Nut")
    for field in PLAIN:
        value = VALUES[field.name]
        if field.is_searched:
            assert Item.objects.search(value).get().pk == "x"
        if field.filter_parameter:
            query = QueryDict(mutable=True)
            query[field.filter_parameter] = value
            assert ListQuery.parse(query).items().get().pk == "x"


@pytest.mark.once
def test_every_field_is_described_in_the_schema():
    schema = yaml.safe_load((ROOT / "resilient_site/openapi.yaml").read_text())
    schemas = schema["components"]["schemas"]
    names = {"id", *(field.name for field in STATE_FIELDS), *READ_ONLY}
    assert names <= schemas["Item"]["properties"].keys()
    parameters = schema["paths"]["/api/v1/items"]["get"]["parameters"]
    filters = {field.filter_parameter for field in STATE_FIELDS} - {""}
    assert filters <= {parameter["name"] for parameter in parameters}
