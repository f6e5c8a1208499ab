"""Files brought in through the page."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from items import importing, uploads
from items.models import Item
from tests.browser.conftest import Browsers

pytestmark = pytest.mark.django_db(transaction=True)

FILE = b"""id,name,description,tags
unit.m,Metre,The SI unit of length,unit si
unit.s,Second,The SI unit of time,unit si
unit.x,,It has no name,unit
"""


def upload(page: Page, content: bytes) -> None:
    page.goto("/items/import/")
    file = {"name": "units.csv", "mimeType": "text/csv", "buffer": content}
    page.get_by_label("File").set_input_files([file])
    page.get_by_role("button", name="Upload and preview").click()


def counts(page: Page) -> dict[str, str]:
    cells = page.locator(".counts > div")
    return {
        cell.locator("dt").inner_text(): cell.locator("dd").inner_text()
        for cell in cells.all()
    }


def test_file_is_previewed_then_imported_and_bad_rows_are_handed_back(
    editor_page: Page,
) -> None:
    page = editor_page
    upload(page, FILE)
    expect(page.get_by_role("heading", name="units.csv")).to_be_visible()
    assert counts(page) == {
        "New": "2", "Changed": "0", "Unchanged": "0", "Rejected": "1",
    }  # fmt: skip
    bad = page.get_by_role("region", name="Rows that will be left out")
    expect(bad.get_by_role("row").nth(1)).to_contain_text("name: Must not be empty.")
    expect(bad.get_by_role("rowheader")).to_have_text("4")
    assert not Item.objects.exists()

    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("The import is done")).to_be_visible()
    assert counts(page) == {
        "Created": "2", "Updated": "0", "Unchanged": "0", "Rejected": "1",
    }  # fmt: skip
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rejected rows").click()
    rejects = Path(download.value.path()).read_text()
    assert rejects.splitlines()[1].startswith("4,name: Must not be empty.,")
    page.get_by_role("link", name="See the items").click()
    expect(page.locator(".rows > li")).to_have_count(2)


def test_long_import_goes_on_by_itself(
    editor_page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every request does one batch of one row, then answers.
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    batches = importing.batches
    monkeypatch.setattr(importing, "batches", lambda lines: batches(lines, size=1))
    page = editor_page
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.method))
    upload(page, FILE)
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("The import is done")).to_be_visible()
    assert seen.count("POST") == 1 + 4  # the upload, three rows, and the end
    assert Item.objects.count() == 2


def test_import_waits_for_a_server_that_is_away(
    browsers: Browsers, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = browsers.open(admin)
    upload(page, FILE)
    away = page.route(
        "**/items/import/*/",
        lambda route: route.fulfill(
            status=503, headers={"Retry-After": "1"}, body="away"
        ),
        times=1,
    )
    assert away is None
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    batches = importing.batches
    monkeypatch.setattr(importing, "batches", lambda lines: batches(lines, size=1))
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("The import is done")).to_be_visible()
    browsers.trouble = [text for text in browsers.trouble if "503" not in text]


def test_file_of_something_else_is_refused_with_a_reason(editor_page: Page) -> None:
    upload(editor_page, b"colour;size\nred;7\n")
    expect(editor_page.get_by_role("alert")).to_contain_text("no column “name”")
    expect(editor_page.get_by_label("File")).to_be_visible()
