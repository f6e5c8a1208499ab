"""The catalogue without JavaScript: every page is a page, every form a form."""

import re

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from items.views import PAGE_ROWS
from tests.browser.conftest import Browsers
from tests.factories import make_item, make_items

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def plain_page(browsers: Browsers) -> Page:
    return browsers.open(java_script_enabled=False)


def test_search_and_filters_work(plain_page: Page) -> None:
    make_items(3)
    make_item(id="nut", name="Brass nut", tags=["metal", "small"])
    page = plain_page
    page.goto("/items/")
    search = page.get_by_role("searchbox")
    search.fill("brass")
    search.press("Enter")
    expect(page.locator(".rows > li")).to_have_count(1)
    page.goto("/items/")
    page.get_by_label("Filter by tag").select_option("small")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".rows > li")).to_have_count(1)
    page.get_by_label("Filter by tag").select_option("metal")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile(r"tag=metal.*tag=small|tag=small.*tag=metal"))
    page.get_by_role("link", name="Remove the tag metal").click()
    page.get_by_role("link", name="Remove the tag small").click()
    expect(page.locator(".rows > li")).to_have_count(4)


def test_list_is_paginated_forwards_and_backwards(plain_page: Page) -> None:
    make_items(PAGE_ROWS + 1)
    page = plain_page
    page.goto("/items/?ordering=id")
    rows = page.locator(".rows > li")
    expect(rows).to_have_count(PAGE_ROWS)
    page.get_by_role("link", name="Next").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(f"Item {PAGE_ROWS:05}")
    page.get_by_role("link", name="Previous").click()
    expect(rows.first).to_contain_text("Item 00000")


def test_import_continues_by_its_button(browsers: Browsers, admin: User) -> None:
    page = browsers.open(admin, java_script_enabled=False)
    page.goto("/items/import/")
    file = {"name": "a.csv", "mimeType": "text/csv", "buffer": b"name\nOne\nTwo\n"}
    page.get_by_label("File", exact=True).set_input_files([file])
    page.get_by_role("button", name="Upload and preview").click()
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("The import has finished")).to_be_visible()
