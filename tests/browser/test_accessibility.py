"""Every page, in both colour schemes and widths, has no fault that axe can see."""

import uuid

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from items import catalogue
from items.bulk import staging
from items.bulk.batches import begin_batch, finish_batch
from items.bulk.undo import undo_batch
from items.collections import editing
from items.models import ChangeBatch, ImportRun, PreviewRow
from tests.browser.conftest import LOOKS, Browsers, tab_to
from tests.compute.factories import do
from tests.factories import TESTER, make_item, make_items

pytestmark = pytest.mark.django_db(transaction=True)

LONG = "a" * 200


def fill_catalogue() -> None:
    make_items(3)
    make_item(id="long", name=LONG, description=LONG * 3, tags=["a" * 50, "metal"])
    catalogue.update_item(
        "long", {"description": "Short.", "tags": ["metal", "new"]}, actor=TESTER
    )
    schema = {
        "properties": {
            "length": {"type": "integer", "title": LONG[:60]},
            "coated": {"type": "boolean", "description": "With zinc."},
            "metal": {"type": "string", "x-reference": "general"},
            "seen": {"type": "string", "format": "date-time"},
        },
        "required": ["length"],
    }
    bolts = {"key": "bolts", "name": "Bolts", "schema": schema}
    editing.create_collection(bolts)
    make_item(
        collection="bolts",
        code="M8",
        status="deprecated",
        valid_to="2020-12-31",
        attributes={"length": 8, "metal": "item-00001"},
        labels={"de": "Bolzen", "ar": "برغي"},
        aliases=[LONG],
        links=[{"relation": "exactMatch", "target": "item-00002"}],
    )
    make_item(id="gone", name="Gone", tags=["metal"])
    catalogue.delete_item("gone", actor=TESTER)

    attributes = {
        "a" * 50: {"type": "string", "title": LONG, "enum": [LONG], "default": LONG},
        "size": {"type": "integer", "minimum": 1, "x-reference": "general"},
    }
    data = {"key": "long", "name": LONG, "source": LONG, "description": LONG * 2}
    editing.create_collection(data | {"schema": {"properties": attributes}})


def make_runs(user: User) -> dict[str, str]:
    numbers = {"created": 1, "updated": 1, "unchanged": 0, "rejected": 1, "missing": 2}
    previews: dict[str, dict[str, object]] = {
        "long": {"complete": False, "job": "/jobs/", "bytes_read": 40},
        "equal": {"complete": True, "columns": ["Code", LONG]},
        "problem": {"complete": True, "columns": ["Code", LONG], "problem": "Choose."},
        "done": {},
    }
    form = {"kind": "csv", "encoding": "utf-8", "collection": "bolts"}
    runs = {
        name: ImportRun.objects.create(
            id=uuid.uuid4(), source=f"{LONG}.csv", path="", size=99, actor=user,
            state="done" if name == "done" else "previewed", created=2, rejected=1,
            format=form | ({"missing": "retire"} if name == "equal" else {}),
            preview=numbers | preview,
        )
        for name, preview in previews.items()
    }  # fmt: skip
    cells = [["name", LONG, "New"], ["attributes.length", "", "9"], ["tags", LONG, ""]]
    for number, kind in enumerate(PreviewRow.Kind.values, 1):
        PreviewRow.objects.create(
            run=runs["equal"], preview=uuid.uuid4(), kind=kind, number=number, line=7,
            item_id="long", name=LONG, cells=cells,
            reason=f"name: {LONG}", text=LONG * 3,
        )  # fmt: skip
    return {name: f"/items/-/import/{run.pk}/" for name, run in runs.items()}


def make_batches() -> list[str]:
    """Batches with a long name, one of which conflicts with a later change."""
    batch = begin_batch(ChangeBatch.Kind.IMPORT, f"{LONG}.csv", actor=TESTER)
    rows = [
        {"id": pk, "name": LONG, "tags": ["new"]} for pk in ("item-00002", "item-00003")
    ]
    staging.apply(rows, actor=TESTER, batch_id=batch.pk)
    finish_batch(batch.pk)
    done = f"/items/-/batches/{batch.pk}/"
    catalogue.update_item("item-00002", {"name": "Mine"}, actor=TESTER)
    undo_batch(batch.pk, actor=TESTER, skip_conflicts=True)
    return ["/items/-/batches/", "/items/-/batches/?kind=job", done, f"{done}undo/"]


# Words that a line break divides; an id or another long one may be.
BROKEN_WORDS = """() => {
  const found = [], range = document.createRange();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (!text.parentElement.checkVisibility()) continue;
    for (const word of text.data.matchAll(/[A-Za-z]{2,20}/g)) {
      if (/[\\w.@-]{21,}/.test(text.data)) continue;
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const tops = [...range.getClientRects()].map((line) => Math.round(line.top));
      if (new Set(tops).size > 1) found.push(word[0]);
    }
  }
  return found;
}"""


def check(page: Page, width: int) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, f"{page.url}\n{found.generate_report()}"
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, f"{page.url} is {wide} pixels wide"
    assert page.evaluate(BROKEN_WORDS) == [], page.url


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_no_page_has_a_fault(
    browsers: Browsers, admin: User, scheme: str, width: int
) -> None:
    fill_catalogue()
    runs, batches = make_runs(admin), make_batches()
    attributes = {"length": 9, LONG[:50]: LONG, "coated": True}
    dry_run = do(
        "change_items", admin, all=True, dry_run=True, set_attributes=attributes,
        valid_to="2030-01-01", replaced_by="bolts.M8",
    )  # fmt: skip
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    page, anonymous = browsers.open(admin, **look), browsers.open(**look)
    for address in (
        "/items/",
        "/items/?tag=metal",
        "/items/?search=nothing-like-it",
        "/items/long/",
        "/items/gone/",
        "/items/long/edit/",
        "/items/long/retire/",
        "/items/long/relations/",
        "/items/long/delete/",
        "/items/bolts.M8/",
        "/items/bolts.M8/edit/",
        "/items/-/new/?collection=bolts",
        "/items/item-00001/delete/",
        "/items/-/changes/",
        *batches,
        "/items/-/import/",
        runs["long"],
        *(f"{runs['equal']}?show={kind}" for kind in PreviewRow.Kind.values),
        runs["problem"],
        runs["done"],
        "/collections/",
        "/collections/long/",
        "/collections/long/edit/",
        "/collections/long/delete/",
        "/jobs/new/change_items/?filter=tag%3Dmetal&number=4",
        dry_run.get_absolute_url(),
    ):
        page.goto(address)
        check(page, width)
    for address in ("/account/sign-in/", "/items/", "/items/x/", "/items/?ordering=x"):
        anonymous.goto(address)
        check(anonymous, width)

    page.goto("/items/-/changes/")
    for summary in page.locator("summary").all():
        summary.click()
    check(page, width)
    page.goto("/account/security/")
    check(page, width)
    page.goto("/account/tokens/")
    page.get_by_label("Name").fill("nightly sync")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    check(page, width)
    page.goto("/collections/long/edit/")
    page.get_by_label("More about attribute 1").check()
    page.get_by_role("button", name="Remove attribute 2").click()
    expect(page.get_by_role("group")).to_have_count(1)
    # A moment after the rows; what is typed before goes wherever the focus then is.
    expect(page.get_by_role("group").get_by_label("Name")).to_be_focused()
    page.get_by_label("Maximum").fill("few")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert").first).to_contain_text("was not saved")
    check(page, width)
    page.goto("/items/long/edit/")
    catalogue.update_item("long", {"description": LONG}, actor=TESTER)
    page.get_by_label("Tags").fill("other")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("region", name="The other version")).to_be_visible()
    check(page, width)
    page.get_by_label("Tags").fill("-")
    page.get_by_role("button", name="Replace the other version").click()
    expect(page.get_by_role("alert").first).to_contain_text("The item was not saved")
    check(page, width)
    page.get_by_role("button", name="ada").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    check(page, width)


def test_catalogue_is_used_by_keyboard_alone(page: Page) -> None:
    make_items(3)
    page.goto("/items/")

    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    tab_to(page.get_by_role("searchbox", name="Search"))
    page.keyboard.type("00002")
    expect(page.locator(".rows > li")).to_have_count(1)
    tab_to(page.get_by_role("link", name="Item 00002"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Item 00002")
