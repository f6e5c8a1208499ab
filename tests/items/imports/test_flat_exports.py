"""Exports with a column for each attribute and label."""

import csv
import io

import pytest
from django.core.management import CommandError, call_command

from items.collections import editing
from items.imports import exporting, flat_columns
from items.models import Item
from resilient_site.errors import Invalid
from tests.factories import make_item
from tests.items.imports.factories import counts, load

pytestmark = pytest.mark.django_db

SCHEMA = {
    "properties": {
        "size": {"type": "integer"},
        "metal": {"type": "string"},
        "never": {"type": "boolean"},
    },
    "additionalProperties": True,
}


@pytest.fixture(autouse=True)
def parts(db) -> None:
    for key in ("parts", "others"):
        editing.create_collection({"key": key, "name": key, "schema": SCHEMA})
    make_item(
        id="1",
        collection="parts",
        code="1",
        attributes={"metal": '"brass"', "more": ["a", 1], "Size": "x", "size": -8},
        labels={"de": "Schraube", "pt-BR": "=Parafuso"},
    )
    make_item(id="2", collection="parts", code="2", attributes={"metal": ""})


def export(name: str = "csv", items=None, flat: bool = True) -> bytes:
    items = Item.objects.for_reading() if items is None else items
    return b"".join(exporting.export(name, items, flat=flat))


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("name", ["csv", "csv-excel", "xlsx"])
def test_flat_export_changes_nothing_and_makes_the_same_items(name, tmp_path):
    content = export(name)
    state = {item.pk: item.state() for item in Item.objects.all()}
    assert counts(load(content, tmp_path)) == (0, 0, 2, 0)
    Item.objects.all().delete()
    assert counts(load(content, tmp_path)) == (2, 0, 0, 0)
    assert {item.pk: item.state() for item in Item.objects.all()} == state


def test_flat_export_has_the_attributes_of_the_schema_first():
    """Names that differ from one of the schema by case alone stay together."""
    first, second = rows(export())
    columns = [name for name in first if name.startswith(("attributes", "labels"))]
    assert columns == [
        "labels.de", "labels.pt-BR", "attributes", "attributes.size",
        "attributes.metal", "attributes.never", "attributes.more",
    ]  # fmt: skip
    assert [first[name] for name in columns] == [
        "Schraube", "'=Parafuso", '{"Size":"x"}', "'-8", '"\\"brass\\""', "", '["a",1]',
    ]  # fmt: skip
    assert second["attributes.metal"] == '""'


def test_flat_export_of_many_collections_types_each_row_by_its_own(tmp_path):
    make_item(id="3", attributes={"metal": 12, "size": "12"})
    make_item(id="4", collection="others", code="4", attributes={"metal": "12"})
    content = export()
    metals = {row["id"]: row["attributes.metal"] for row in rows(content)}
    assert (metals["3"], metals["4"]) == ("12", "12")
    assert rows(content)[2]["attributes.size"] == '"12"'
    assert counts(load(content, tmp_path)) == (0, 0, 4, 0)


def test_members_for_which_there_is_no_column_stay_together(monkeypatch, tmp_path):
    monkeypatch.setattr(flat_columns, "MEMBERS_MAX", {"labels": 1, "attributes": 2})
    content = export()
    (first, _) = rows(content)
    assert (first["labels"], first["labels.de"]) == (
        '{"pt-BR":"=Parafuso"}',
        "Schraube",
    )
    assert "attributes.never" not in first
    assert counts(load(content, tmp_path)) == (0, 0, 2, 0)


def test_flat_export_of_nothing_has_its_columns(tmp_path):
    for items in (Item.objects.none(), Item.objects.filter(pk="nix")):
        content = export(items=items)
        assert content.startswith(b"id,collection,code,name,description,aliases,tags,")
    with pytest.raises(Invalid) as caught:
        export("ndjson")
    assert caught.value.errors.keys() == {"flat"}


def test_flat_exports_over_rest_and_by_command(api, tmp_path, capfdbinary):
    url = "/api/v1/items/-/export?collection=parts"
    response = api.get(f"{url}&flat=true")
    content = response.getvalue()
    assert rows(content)[0]["attributes.size"] == "'-8"
    refused = api.get(f"{url}&flat=true&format=ndjson")
    assert (refused.status_code, [*refused.json()["errors"]]) == (400, ["flat"])
    assert api.get(f"{url}&flat=7").status_code == 400
    call_command("export_items", "-", flat=True, collection=["parts"])
    assert capfdbinary.readouterr().out == content
    with pytest.raises(CommandError, match="NDJSON has no columns"):
        call_command("export_items", "-", flat=True, format="ndjson")
