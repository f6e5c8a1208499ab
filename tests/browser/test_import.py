"""Files brought in through the page."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, Route, expect

from items.imports import importing, uploads
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
    page.get_by_label("File", exact=True).set_input_files([file])
    page.get_by_role("button", name="Upload and preview").click()


def counts(page: Page) -> dict[str, str]:
    cells = page.locator(".counts > div")
    return {
        cell.locator("dt").inner_text(): cell.locator("dd").inner_text()
        for cell in cells.all()
    }


def test_file_is_previewed_then_imported_and_bad_rows_are_returned(
    editor_page: Page,
) -> None:
    page = editor_page
    upload(page, FILE)
    expect(page.get_by_role("heading", name="units.csv")).to_be_visible()
    assert counts(page) == {
        "New": "2", "Changed": "0", "Unchanged": "0", "Rejected": "1",
    }  # fmt: skip
    bad = page.get_by_role("region", name="Rows that will be rejected")
    expect(bad.get_by_role("row").nth(1)).to_contain_text("name: Must not be empty.")
    expect(bad.get_by_role("rowheader")).to_have_text("4")
    assert not Item.objects.exists()

    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("The import has finished")).to_be_visible()
    assert counts(page) == {
        "Created": "2", "Updated": "0", "Unchanged": "0", "Rejected": "1",
    }  # fmt: skip
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rejected rows").click()
    rejects = Path(download.value.path()).read_text()
    assert rejects.splitlines()[1].startswith("4,name: Must not be empty.,")
    page.get_by_role("link", name="View the items").click()
    expect(page.locator(".rows > li")).to_have_count(2)


def test_import_continues_by_itself_also_when_the_server_was_down(
    browsers: Browsers, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = importing.batches
    monkeypatch.setattr(importing, "batches", lambda lines: batches(lines, size=1))
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    page = browsers.open(admin)
    upload(page, FILE)
    answers = iter([200, 503, 200, 200, 200])

    def answer(route: Route) -> None:
        if next(answers) == 503:
            route.fulfill(status=503, headers={"Retry-After": "1"}, body="down")
        else:
            route.continue_()

    page.route("**/items/import/*/", answer)
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("alert")).to_contain_text("Trying again in 1 second")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    expect(page.get_by_text("The import has finished")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    assert Item.objects.count() == 2
    browsers.trouble = [text for text in browsers.trouble if "503" not in text]
