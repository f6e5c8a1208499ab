"""Jobs in a browser, run by a real pool."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_jobs import expect_state, start
from tests.compute.conftest import Pool

pytestmark = pytest.mark.django_db(transaction=True)


def record_announcements(page: Page) -> None:
    """Record the announcements for screen readers on each page from now on."""
    page.add_init_script(
        """document.addEventListener("DOMContentLoaded", () => {
        window.said = [];
        const announcer = document.getElementById("announcer");
        if (announcer) new MutationObserver(() => said.push(announcer.textContent))
          .observe(announcer, {childList: true, characterData: true, subtree: true});
        })"""
    )


def announcements(page: Page) -> list[str]:
    return page.evaluate("window.said")


def test_job_is_followed_to_its_result(
    pool: Pool, person_page: Page, gate: Path
) -> None:
    page = person_page
    record_announcements(page)
    start(page, "Nap", seconds="120", gate=str(gate))
    expect_state(page, "Running")
    bar = page.get_by_role("progressbar", name="Progress")
    value = bar.evaluate("bar => bar.value")
    expect(bar).not_to_have_js_property("value", value)
    expect(page.locator("[data-message]")).to_contain_text("s left")
    gate.touch()
    expect_state(page, "Succeeded")
    result = page.get_by_role("region", name="Result")
    expect(result).to_contain_text("Attempt")
    expect(page).to_have_title("Nap, succeeded · Resilient Site")
    assert announcements(page) in (
        ["Nap: running", "Nap: succeeded"],
        ["Nap: succeeded"],
    )


@pytest.mark.parametrize("lacking", ["EventSource", "answer", "events"])
def test_page_polls_without_events(pool: Pool, person_page: Page, lacking: str) -> None:
    page = person_page
    if lacking == "EventSource":
        page.add_init_script("delete window.EventSource")
    elif lacking == "answer":
        page.route("**/events", lambda route: route.abort())
    else:
        page.add_init_script("window.EventSource.prototype.addEventListener = () => {}")
    record_announcements(page)
    start(page, "Nap", seconds="1")
    expect_state(page, "Succeeded")
    assert announcements(page)[-1] == "Nap: succeeded"
