"""The status page in a browser: it updates itself, and has no accessibility faults."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from resilient_site.health import components, views
from resilient_site.health.components import CheckResult, Status
from resilient_site.resilience import breaker_overrides
from resilient_site.resilience.breaker_overrides import BreakerOverrides
from tests.browser.conftest import LOOKS, Browsers
from tests.browser.test_accessibility import check

pytestmark = pytest.mark.django_db(transaction=True)

UNAVAILABLE = CheckResult(
    Status.FAIL, "The database does not answer.", "OperationalError: " * 9
)


@pytest.fixture
def database() -> Iterator[list[CheckResult]]:
    """Results of the check of the database; the last one counts."""
    found = [CheckResult(Status.PASS, "The catalogue can be read and changed.")]
    component = next(
        component
        for component in components.all_components()
        if component.name == "database"
    )
    components.register(replace(component, check=lambda: found[-1]))
    views.health_monitor.monitors.clear()
    yield found
    components.register(component)
    views.health_monitor.monitors.clear()


@pytest.fixture(autouse=True)
def overrides(tmp_path, monkeypatch) -> Iterator[BreakerOverrides]:
    overrides = BreakerOverrides(tmp_path / "breakers.json")
    monkeypatch.setattr(views, "breaker_overrides", overrides)
    monkeypatch.setattr(breaker_overrides, "breaker_overrides", overrides)
    yield overrides
    overrides.path.unlink(missing_ok=True)
    overrides.apply()


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_status_page_has_no_fault(
    browsers: Browsers,
    admin: User,
    overrides: BreakerOverrides,
    database,
    scheme: str,
    width: int,
) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    staff, anonymous = browsers.open(admin, **look), browsers.open(**look)
    for finding in (database[0], UNAVAILABLE):
        database.append(finding)
        for page in (anonymous, staff):
            page.goto("/status/")
            check(page, width)
    staff.get_by_role("button", name="Force cache open").click()
    expect(staff.get_by_text("Forced open by ada")).to_be_visible()
    check(staff, width)
    staff.get_by_role("button", name="Remove the override of cache").click()
    expect(staff.get_by_text("Forced open by ada")).to_have_count(0)


def test_status_page_updates_itself_and_announces_changes(page: Page, database) -> None:
    page.clock.install()
    page.goto("/items/")
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_text("Everything works.")).to_be_visible()
    database.append(UNAVAILABLE)
    # The server of the tests is plain WSGI: no edge, so nothing is cached.
    update_until(page, page.get_by_text("The site cannot answer requests").first)
    announcer = page.locator("#status-announcer")
    expect(announcer).to_contain_text("Catalogue: The database does not answer.")
    database.append(database[0])
    update_until(page, page.get_by_text("Everything works.").first)
    expect(announcer).to_have_text("Everything works.")


def update_until(page: Page, shown: Locator) -> None:
    """Let the page update itself; the checks run beside it, every second."""
    for _ in range(10):
        page.clock.run_for(5_000)
        with suppress(AssertionError):
            expect(shown).to_be_visible(timeout=1_500)
            return
    expect(shown).to_be_visible()


def test_status_page_says_when_the_site_does_not_answer(page: Page, database) -> None:
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
