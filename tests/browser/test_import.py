"""A file brought in through the page."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Route, expect

from items.imports import uploads
from items.models import Item
from tests.browser.conftest import Browsers

pytestmark = pytest.mark.django_db(transaction=True)

FILE = b"""id,name,description,tags
unit.m,Metre,The SI unit of length,unit si
unit.s,Second,The SI unit of time,unit si
unit.x,,It has no name,unit
"""


def test_file_is_previewed_and_its_import_continues_when_the_server_was_down(
    browsers: Browsers, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 1)
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0)
    page = browsers.open(admin)
    page.goto("/items/-/import/")
    file = {"name": "units.csv", "mimeType": "text/csv", "buffer": FILE}
    page.get_by_label("File", exact=True).set_input_files([file])
    page.get_by_role("button", name="Upload and preview").click()
    page.get_by_role("link", name="Rejected").click()
    bad = page.get_by_role("region", name="Rejected")
    expect(bad.get_by_role("row").nth(1)).to_contain_text("name: Must not be empty.")
    assert not Item.objects.exists()
    answers = iter([200, 503, 200, 200, 200])

    def answer(route: Route) -> None:
        if next(answers) == 503:
            route.fulfill(status=503, headers={"Retry-After": "1"}, body="down")
        else:
            route.continue_()

    page.route("**/items/-/import/*/", answer)
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Trying again in 1 second")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    expect(page.get_by_text("The import has finished")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    assert Item.objects.count() == 2
    browsers.trouble = [text for text in browsers.trouble if "503" not in text]
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rejected rows").click()
    assert ",name: Must not be empty.," in Path(download.value.path()).read_text()
