"""A collection is made by somebody who does not read JSON."""

import pytest
from playwright.sync_api import Locator, Page, expect

from items import catalogue
from items.collections import editing
from items.models import Collection
from tests.browser.conftest import tab_to
from tests.factories import make_item

pytestmark = pytest.mark.django_db(transaction=True)


def attribute(page: Page, number: int) -> Locator:
    return page.get_by_role("group", name=f"Attribute {number}")


def add_attribute(page: Page, number: int, name: str, kind: str) -> Locator:
    """By keyboard: the new row has the focus."""
    if number > 1:
        page.get_by_role("button", name="Add an attribute").press("Enter")
    row = attribute(page, number)
    if number > 1:
        expect(row.get_by_label("Name")).to_be_focused()
    row.get_by_label("Name").fill(name)
    row.get_by_label("Type").select_option(label=kind)
    return row


def test_collection_of_typed_attributes_is_made_and_filled_by_hand(
    editor_page: Page,
) -> None:
    page = editor_page
    editing.create_collection({"key": "metals", "name": "Metals"})
    make_item(collection="metals", code="Fe", name="Iron")
    page.goto("/collections/")
    page.get_by_role("link", name="New collection").click()
    page.get_by_label("Key").fill("bolts")
    page.get_by_label("Name", exact=True).first.fill("Bolts")
    row = add_attribute(page, 1, "length", "Number")
    row.get_by_label("Required").check()
    row = add_attribute(page, 2, "head", "Text")
    row.get_by_label("Allowed values").fill("hex\nround")
    row = add_attribute(page, 3, "metal", "Code of another collection")
    row.get_by_label("Collection").fill("metals")
    row = add_attribute(page, 4, "since", "Date")
    expect(row.get_by_label("Collection")).to_be_hidden()
    row.get_by_label("More").check()
    row.get_by_label("Lists can be filtered by it").check()
    row = add_attribute(page, 5, "galvanized", "Yes or no")
    page.get_by_role("button", name="Move attribute 5 up").press("Enter")
    moved = page.get_by_role("button", name="Move attribute 4 up")
    expect(moved).to_be_focused()
    expect(attribute(page, 4).get_by_label("Name")).to_have_value("galvanized")
    expect(attribute(page, 5).get_by_label("Lists can be filtered")).to_be_checked()
    tab_to(page.get_by_role("button", name="Create"))
    page.keyboard.press("Enter")

    expect(page.get_by_role("status")).to_have_text("“Bolts” was created.")
    expect(page.get_by_role("row", name="head")).to_contain_text("round")
    schema = Collection.objects.get(pk="bolts").schema
    assert schema["x-order"] == ["length", "head", "metal", "galvanized", "since"]
    assert schema["properties"]["since"]["x-filterable"]
    assert schema["required"] == ["length"]

    page.get_by_role("link", name="New item").click()
    page.get_by_role("textbox", name="Code").first.fill("M8")
    page.get_by_role("textbox", name="Name", exact=True).fill("Hex bolt")
    page.get_by_label("Length").fill("40.5")
    page.get_by_label("Head").select_option("hex")
    page.get_by_role("combobox", name="Metal").fill("Fe")
    page.get_by_label("Galvanized").select_option(label="No")
    page.get_by_label("Since").fill("2026-12-01")
    page.get_by_role("button", name="Create").click()

    expect(page.get_by_role("status").first).to_have_text("“Hex bolt” was created.")
    assert catalogue.get_item("bolts.M8").attributes == {
        "length": 40.5, "head": "hex", "metal": "Fe", "galvanized": False,
        "since": "2026-12-01",
    }  # fmt: skip
