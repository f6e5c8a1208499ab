"""The status page in a browser: renewed by itself, and good to look at and to hear."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from resilient_site.health import components, views
from resilient_site.health.components import Finding, Status
from resilient_site.resilience.breaker_overrides import Holds
from tests.browser.conftest import LOOKS, Browsers
from tests.browser.test_accessibility import check

pytestmark = pytest.mark.django_db(transaction=True)

AWAY = Finding(Status.FAIL, "The database does not answer.", "OperationalError: " * 9)


@pytest.fixture
def database() -> Iterator[list[Finding]]:
    """What is found of the database, as the test says."""
    found = [Finding(Status.PASS, "The catalogue can be read and changed.")]
    part = next(part for part in components.all_parts() if part.name == "database")
    components.register(replace(part, check=lambda: found[-1]))
    views.watch.probes.clear()
    yield found
    components.register(part)
    views.watch.probes.clear()


@pytest.fixture(autouse=True)
def holds(tmp_path, monkeypatch) -> Iterator[Holds]:
    holds = Holds(tmp_path / "breakers.json")
    monkeypatch.setattr(views, "holds", holds)
    yield holds
    holds.path.unlink(missing_ok=True)
    holds.apply()


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_page_has_no_fault(
    browsers: Browsers, admin: User, holds: Holds, database, scheme: str, width: int
) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    staff, stranger = browsers.open(admin, **look), browsers.open(**look)
    for word, finding in (("works", database[0]), ("degraded", AWAY)):
        database.append(finding)
        for who, page in (("stranger", stranger), ("staff", staff)):
            page.goto("/status/")
            check(page, width)
            shoot(page, f"{who}-{word}-{scheme}-{width}")
    staff.get_by_role("button", name="Hold cache open").click()
    expect(staff.get_by_text("Held open by ada")).to_be_visible()
    check(staff, width)
    shoot(staff, f"staff-held-{scheme}-{width}")
    staff.get_by_role("button", name="Let cache go").click()
    expect(staff.get_by_text("Held open")).to_have_count(0)


def test_the_page_renews_itself_and_says_so(page: Page, database) -> None:
    page.clock.install()
    page.goto("/items/")
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_text("Everything works.")).to_be_visible()
    database.append(AWAY)
    renew_until(
        page, page.get_by_text("Not everything works as it should.", exact=True)
    )
    announcer = page.locator("#status-announcer")
    expect(announcer).to_contain_text("Catalogue: The database does not answer.")
    database.append(database[0])
    renew_until(page, page.get_by_text("Everything works.").first)
    expect(announcer).to_have_text("Everything works.")


def renew_until(page: Page, shown: Locator) -> None:
    """Let the page renew itself; what it finds is looked at beside it, every second."""
    for _ in range(10):
        page.clock.run_for(5_000)
        with suppress(AssertionError):
            expect(shown).to_be_visible(timeout=1_500)
            return
    expect(shown).to_be_visible()


def test_a_site_that_does_not_answer_is_told(page: Page, database) -> None:
    page.clock.install()
    page.goto("/status/")
    trouble = page.get_by_role("alert")
    page.route("**/status/", lambda route: route.abort())
    page.clock.run_for(5_000)
    expect(trouble).to_contain_text("may be out of date")
    expect(page.get_by_text("Everything works.")).to_be_visible()
    page.unroute("**/status/")
    page.clock.run_for(5_000)
    expect(trouble).to_be_hidden()


def test_the_page_works_without_javascript(browsers: Browsers, database) -> None:
    page = browsers.open(java_script_enabled=False)
    page.goto("/status/")
    expect(page.get_by_text("Everything works.")).to_be_visible()
    expect(page.get_by_text("renews itself")).to_be_hidden()
    database.append(AWAY)
    page.get_by_role("link", name="Reload").click()
    expect(page.get_by_text("The database does not answer.")).to_be_visible()
