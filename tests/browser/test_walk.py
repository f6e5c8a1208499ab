"""What an editor does in a day, from signing in to undoing a mistake."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from items.collections import editing
from items.models import Collection
from tests.browser.conftest import Browsers
from tests.factories import make_item, make_items

pytestmark = pytest.mark.django_db(transaction=True)


def rows(page: Page) -> Any:
    return page.locator("#results .rows > li")


def save(page: Page, button: str = "Save") -> None:
    page.get_by_role("button", name=button, exact=True).click()


def test_results_and_url_follow_the_typing(page: Page) -> None:
    make_items(3)
    make_item(id="bolt", name="Brass bolt", tags=["metal"])
    make_item(id="nut", name="Brass nut", tags=["metal", "small"])
    page.goto("/items/")
    search = page.get_by_role("searchbox")
    search.press_sequentially("bras")
    expect(rows(page)).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/items/\?search=bras$"))
    expect(page.locator("#announcer")).to_have_text("2 items")
    expect(search).to_be_focused()

    page.get_by_label("Filter by tag").select_option("small")
    expect(rows(page)).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?search=bras&tag=small$"))
    page.get_by_role("link", name="Remove the tag small").click()
    expect(rows(page)).to_have_count(2)
    expect(page).to_have_url(re.compile(r"\?search=bras$"))

    page.get_by_label("Order").select_option(label="Name, Z to A")
    expect(rows(page).first).to_contain_text("Brass nut")
    page.get_by_role("searchbox").fill("nothing like it")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()


def test_filters_by_attributes_follow_the_collection(editor_page: Page) -> None:
    page = editor_page
    metal = {"type": "string", "enum": ["brass", "steel"], "x-filterable": True}
    for key, properties in ("bolts", {"metal": metal}), ("nuts", {}):
        schema = {"properties": properties}
        Collection.objects.create(key=key, name=key.title(), schema=schema)
        make_item(collection=key, code="1", name=f"One of {key}")
    make_item(collection="bolts", code="2", attributes={"metal": "brass"})
    page.goto("/items/")
    collection = page.get_by_label("Filter by collection")
    collection.select_option("bolts")
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Filter by metal").select_option(label="brass (1)")
    expect(rows(page)).to_have_count(1)
    new = page.get_by_role("link", name="New item")
    expect(new).to_have_attribute("href", "/items/-/new/?collection=bolts")
    # Another collection does not have that attribute.
    collection.select_option("nuts")
    expect(rows(page)).to_contain_text("One of nuts")
    expect(page).to_have_url(re.compile(r"/items/\?collection=nuts$"))
    page.get_by_role("link", name="Remove the filter Nuts").click()
    expect(rows(page)).to_have_count(3)


def test_going_back_shows_the_whole_list_as_it_was(page: Page) -> None:
    make_items(2)
    page.goto("/items/")
    page.get_by_role("searchbox").fill("00001")
    expect(rows(page)).to_have_count(1)
    page.get_by_role("link", name="Item 00001").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Item 00001")
    page.go_back()
    expect(page.get_by_role("banner")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_value("00001")
    expect(rows(page)).to_have_count(1)


def test_item_is_created_and_edited(editor_page: Page) -> None:
    page = editor_page
    page.goto("/items/")
    page.get_by_role("link", name="New item").click()
    page.get_by_label("Name", exact=True).fill("Brass bolt")
    page.get_by_label("Tags").fill("metal -!")
    save(page, "Create")
    error = page.get_by_role("alert").get_by_role("link")
    expect(error).to_contain_text("Tags: “-!” is not a tag")
    error.click()
    tags = page.get_by_label("Tags")
    expect(tags).to_be_focused()
    expect(tags).to_have_attribute("aria-invalid", "true")
    expect(tags).to_have_accessible_description(re.compile("is not a tag"))
    tags.fill("metal")
    page.get_by_label("Description").fill("M8\n40 mm")
    save(page, "Create")
    expect(page.get_by_role("status")).to_contain_text("“Brass bolt” was created.")

    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Name", exact=True).fill("Steel bolt")
    save(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Steel bolt")
    change = page.locator(".changes > li").first
    expect(change.get_by_role("deletion")).to_contain_text("Brass bolt")
    expect(change.get_by_role("insertion")).to_contain_text("Steel bolt")


def make_bolts() -> None:
    editing.create_collection({"key": "metals", "name": "Metals"})
    make_item(collection="metals", code="Cu", name="Copper")
    schema = {
        "properties": {
            "length": {"type": "integer", "title": "Length", "minimum": 1},
            "coated": {"type": "boolean", "title": "Coated"},
            "metal": {"type": "string", "title": "Metal", "x-reference": "metals"},
        },
        "required": ["length"],
    }
    editing.create_collection({"key": "bolts", "name": "Bolts", "schema": schema})
    bolt = {"collection": "bolts", "name": "New bolt", "attributes": {"length": 9}}
    make_item(**bolt, code="M9")


def test_item_with_attributes_is_typed_and_later_retired(editor_page: Page) -> None:
    make_bolts()
    page = editor_page
    page.goto("/items/-/new/")
    page.get_by_label("Name", exact=True).fill("Old bolt")
    page.get_by_label("Collection").select_option("bolts")
    page.get_by_label("Length").fill("8")
    expect(page.get_by_label("Name", exact=True)).to_have_value("Old bolt")
    page.get_by_label("Code").fill("M8")
    page.get_by_label("Coated").select_option("Yes")
    page.get_by_label("Metal").press_sequentially("copp")
    suggested = page.locator("#attributes-metal-suggestions option")
    expect(suggested).to_have_attribute("value", "Cu")
    page.get_by_label("Metal").fill("Cu")
    page.get_by_label("Label 1: language").fill("de")
    page.get_by_label("Label 1: label").fill("Schraube")
    page.get_by_role("button", name="Add label").click()
    expect(page.get_by_label("Label 2: language")).to_be_focused()
    page.get_by_label("Label 2: language").fill("fr")
    page.get_by_label("Label 2: label").fill("vis")
    page.get_by_role("button", name="Remove label 1").click()
    expect(page.get_by_label("Label 1: label")).to_have_value("vis")
    page.get_by_label("Label 1: label").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Old bolt")
    expect(page.locator(".pairs-of").first).to_contain_text("Copper Cu")

    page.get_by_role("link", name="Retire").click()
    page.get_by_label("Replaced by").fill("M9")
    save(page, "Retire")
    notice = page.locator("article .notice")
    expect(notice).to_contain_text("This code is retired")
    notice.get_by_role("link", name="New bolt").click()
    references = page.get_by_role("region", name="Referred to by")
    expect(references.get_by_role("link", name="Old bolt")).to_be_visible()


def test_search_and_filters_work_without_javascript(browsers: Browsers) -> None:
    make_items(3)
    make_item(id="nut", name="Brass nut", tags=["metal", "small"])
    page = browsers.open(java_script_enabled=False)
    page.goto("/items/")
    search = page.get_by_role("searchbox")
    search.fill("brass")
    search.press("Enter")
    expect(rows(page)).to_have_count(1)
    page.goto("/items/")
    page.get_by_label("Filter by tag").select_option("small")
    page.get_by_role("button", name="Apply").click()
    expect(rows(page)).to_have_count(1)
    page.get_by_label("Filter by tag").select_option("metal")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile(r"tag=metal.*tag=small|tag=small.*tag=metal"))
    page.get_by_role("link", name="Remove the tag metal").click()
    page.get_by_role("link", name="Remove the tag small").click()
    expect(rows(page)).to_have_count(4)
