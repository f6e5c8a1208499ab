"""A file brought in through the page."""

import re
from itertools import chain, repeat
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Route, expect

from items.collections import editing
from items.imports import uploads
from items.models import Item
from tests.browser.conftest import Browsers
from tests.items.imports.cases import workbook

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
    page.clock.install()
    page.goto("/items/-/import/")
    file = {"name": "units.csv", "mimeType": "text/csv", "buffer": FILE}
    page.get_by_label("File", exact=True).set_input_files([file])
    page.get_by_role("button", name="Upload and preview").click()
    page.get_by_role("link", name="Rejected").click()
    bad = page.get_by_role("region", name="Rejected")
    expect(bad.get_by_role("row").nth(1)).to_contain_text("name: Must not be empty.")
    assert not Item.objects.exists()
    answers = chain([200, 503], repeat(200))

    def answer(route: Route) -> None:
        if next(answers) == 503:
            route.fulfill(status=503, headers={"Retry-After": "300"}, body="down")
        else:
            route.continue_()

    page.route("**/items/-/import/*/", answer)
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Trying again in 300 seconds")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    page.clock.run_for(300_000)
    expect(page.get_by_text("The import has finished")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    assert Item.objects.count() == 2
    browsers.trouble = [text for text in browsers.trouble if "503" not in text]
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rejected rows").click()
    assert ",name: Must not be empty.," in Path(download.value.path()).read_text()


def test_steward_brings_a_collection_in_line_with_a_yearly_list(
    browsers: Browsers, admin: User
) -> None:
    schema = {"properties": {"length": {"type": "integer", "title": "Length"}}}
    editing.create_collection({"key": "bolts", "name": "Bolts", "schema": schema})
    page = browsers.open(admin)

    def upload(name: str, content: bytes) -> None:
        page.goto("/items/-/import/?collection=bolts")
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        page.get_by_label("File", exact=True).set_input_files([file])
        page.get_by_role("button", name="Upload and preview").click()

    def count(kind: str) -> Locator:
        tabs = page.get_by_role("navigation", name="Rows of the preview")
        return tabs.get_by_role("link", name=re.compile(f"^{kind}"))

    def finish(button: str) -> None:
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.get_by_text("The import has finished")).to_be_visible()

    # The columns of a workbook are assigned, once.
    head = ["Artikel", "Bezeichnung", "Länge in mm", "Bemerkung"]
    rows = [["M8", "Bolt M8", "40", "x"], ["M6", "Bolt M6", "long", ""]]
    upload("2025.xlsx", workbook([head, *rows, ["M4", "Bolt M4", "20", ""]]))
    expect(page.get_by_text("Choose below what each column is")).to_be_visible()
    page.get_by_label("Artikel").select_option("Code")
    page.get_by_label("Bezeichnung").select_option("Name")
    page.get_by_label("Länge in mm").select_option("Length")
    page.get_by_role("button", name="Preview again").click()
    expect(count("New")).to_have_text("New 2")
    count("Rejected").click()
    expect(page.get_by_role("region", name="Rejected")).to_contain_text("length")
    finish("Import")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rejected rows").click()

    # The rejected row, mended, is imported without a question.
    mended = Path(download.value.path()).read_text().replace("long", "30", 1)
    upload("2025.rejects.csv", mended.encode())
    expect(count("New")).to_have_text("New 1")
    finish("Import")

    # The next list has a changed row, a new one, and two less.
    newer = [["M8", "Bolt M8", "41", ""], ["M10", "Bolt M10", "50", ""]]
    upload("2026.xlsx", workbook([head, *newer]))
    page.get_by_text("How the file is read").click()
    page.get_by_label("What is missing is retired").check()
    page.get_by_role("button", name="Preview again").click()
    count("Changed").click()
    cells = page.get_by_role("region", name="Changed")
    expect(cells.get_by_role("deletion")).to_have_text("Before: 40")
    expect(cells.get_by_role("insertion")).to_have_text("After: 41")
    expect(count("Not in the file")).to_have_text("Not in the file 2")
    finish("Import, and retire 2 items")
    states = Item.objects.order_by("code").values_list("code", "status")
    assert dict(states) == {
        "M10": "active", "M4": "retired", "M6": "retired", "M8": "active"
    }  # fmt: skip

    # All of it is taken back in one step.
    page.get_by_role("link", name="Changes and undo").click()
    page.get_by_role("link", name="Undo all").click()
    page.get_by_role("button", name="Undo all", exact=True).click()
    expect(page.get_by_role("button", name="Undo all")).to_have_count(0)
    states = Item.objects.order_by("code").values_list("code", "status")
    assert dict(states) == {"M4": "active", "M6": "active", "M8": "active"}
    assert Item.objects.get(code="M8").attributes == {"length": 40}
