"""Jobs as people start, follow and stop them, with a real pool at work."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, Route, expect

from compute.models import Job
from tests.browser.conftest import LOOKS, Browsers
from tests.browser.test_accessibility import LONG, check
from tests.compute.conftest import Pool, database_of_tests, environment
from tests.compute.factories import do, make_file, make_job
from tests.factories import make_item, make_items

pytestmark = pytest.mark.django_db(transaction=True)

TASKS = "tests.compute.faults"


@pytest.fixture
def pool(live_server, tmp_path: Path) -> Iterator[Pool]:
    env = environment(tmp_path) | database_of_tests()
    pool = Pool(env, tmp_path / "pool.log").start()
    yield pool
    pool.close()


@pytest.fixture
def person_page(browsers: Browsers, reader: User) -> Page:
    return browsers.open(reader)


def start(page: Page, task: str, **fields: str) -> None:
    page.goto("/jobs/")
    page.get_by_role("link", name="New job").click()
    page.get_by_role("link", name=task, exact=True).click()
    for label, value in fields.items():
        page.get_by_label(label.capitalize()).fill(value)
    page.get_by_role("button", name="Start").click()
    expect(page).to_have_url(re.compile("/jobs/[0-9a-f-]{36}/$"))


def state(page: Page, name: str) -> None:
    expect(page.locator(".standing .state")).to_have_text(name, timeout=30_000)


def note_what_is_said(page: Page) -> None:
    """Keep all that a screen reader is given to say on each page from now on."""
    page.add_init_script(
        """document.addEventListener("DOMContentLoaded", () => {
        window.said = [];
        const announcer = document.getElementById("announcer");
        if (announcer) new MutationObserver(() => said.push(announcer.textContent))
          .observe(announcer, {childList: true, characterData: true, subtree: true});
        })"""
    )


def said(page: Page) -> list[str]:
    return page.evaluate("window.said")


def test_a_job_is_started_and_followed_to_its_result(
    pool: Pool, person_page: Page
) -> None:
    page = person_page
    note_what_is_said(page)
    start(page, "Nap", seconds="5")
    state(page, "Running")
    bar = page.get_by_role("progressbar", name="Progress")
    value = bar.evaluate("bar => bar.value")
    expect(bar).not_to_have_js_property("value", value)
    expect(page.locator("[data-message]")).to_contain_text("s left")
    state(page, "Succeeded")
    result = page.get_by_role("region", name="Result")
    expect(result).to_contain_text("Attempt")
    expect(page).to_have_title("Nap, succeeded · Resilient Site")
    assert said(page) in (["Nap: running", "Nap: succeeded"], ["Nap: succeeded"])


@pytest.mark.parametrize("lacking", ["EventSource", "answer", "events"])
def test_where_no_events_come_the_page_asks_again(
    pool: Pool, person_page: Page, lacking: str
) -> None:
    page = person_page
    if lacking == "EventSource":
        page.add_init_script("delete window.EventSource")
    elif lacking == "answer":
        page.route("**/events", lambda route: route.abort())
    else:
        page.add_init_script("window.EventSource.prototype.addEventListener = () => {}")
    note_what_is_said(page)
    start(page, "Nap", seconds="1")
    state(page, "Succeeded")
    assert said(page)[-1] == "Nap: succeeded"


def test_a_running_job_is_cancelled(pool: Pool, person_page: Page) -> None:
    page = person_page
    start(page, "Endless c loop")
    state(page, "Running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Stopping…")).to_be_disabled()
    state(page, "Cancelled")
    expect(page.get_by_role("main")).to_contain_text("It was cancelled")
    assert Job.objects.get().state == "cancelled"


def test_a_failed_job_says_why_and_is_run_again(pool: Pool, person_page: Page) -> None:
    page = person_page
    start(page, "Refuse")
    state(page, "Failed")
    expect(page.get_by_role("main")).to_contain_text("There is nothing to do.")
    first = page.url
    page.get_by_role("button", name="Run again").dblclick()
    expect(page).not_to_have_url(first)
    state(page, "Failed")
    assert Job.objects.count() == 2


def test_a_job_in_parts_shows_all_of_them(pool: Pool, person_page: Page) -> None:
    page = person_page
    start(page, "In parts", parts="3", seconds="2")
    parts = page.get_by_role("region", name="Parts").get_by_role("listitem")
    expect(parts).to_have_count(3)
    expect(parts.filter(has_text="Running")).not_to_have_count(0)
    state(page, "Succeeded")
    expect(page.get_by_role("region", name="Result")).to_contain_text("Sum5")


def test_two_clicks_start_one_job(person_page: Page) -> None:
    page = person_page
    page.goto("/jobs/new/echo/")
    page.get_by_role("button", name="Start").dblclick()
    state(page, "Queued")
    assert Job.objects.count() == 1
    # The form can be used again when one comes back to it.
    page.go_back()
    page.get_by_label("Number").fill("8")
    page.get_by_role("button", name="Start").click()
    state(page, "Queued")
    assert [job.params["number"] for job in Job.objects.order_by("id")] == [0, 8]


def test_the_list_follows_its_jobs_until_all_have_ended(
    person_page: Page, reader: User
) -> None:
    page = person_page
    job = make_job("running", owner=reader)
    other = make_job("succeeded", owner=reader, task="nap", params={})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/jobs/")
    link = page.locator(f"#job-{job.pk}")
    link.focus()
    Job.objects.filter(pk=job.pk).update(fraction=0.7)
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_js_property("value", 70)
    expect(link).to_be_focused()
    other.delete()
    Job.objects.filter(pk=job.pk).update(
        state="failed", finished_at=job.created_at, error_detail="The cat."
    )
    expect(page.locator(".rows > li")).to_have_count(1)
    expect(page.locator(".state")).to_have_text("Failed")
    expect(page.locator("[hx-trigger^=every]")).to_have_count(0)

    page.get_by_label("Filter by state").select_option("succeeded")
    expect(page).to_have_url(re.compile(r"/jobs/\?state=succeeded$"))
    expect(page.get_by_role("heading", name="No such jobs")).to_be_visible()


def test_a_page_outlives_a_server_that_does_not_answer(
    browsers: Browsers, reader: User
) -> None:
    page = browsers.open(reader)
    page.add_init_script("delete window.EventSource")
    job = make_job("running", owner=reader)
    page.goto(job.get_absolute_url())
    down = True

    def answer(route: Route) -> None:
        if down:
            route.fulfill(status=503, headers={"Retry-After": "1"}, body="down")
        else:
            route.continue_()

    page.route(f"**{job.get_absolute_url()}", answer)
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    state(page, "Running")
    down = False
    job.delete()
    expect(page.get_by_role("alert")).to_contain_text("no such job")
    browsers.trouble = [
        text for text in browsers.trouble if not re.match("503|404|Response", text)
    ]


def test_jobs_without_javascript(pool: Pool, browsers: Browsers, reader: User) -> None:
    page = browsers.open(reader, java_script_enabled=False)
    start(page, "Nap", seconds="60")
    expect(async_state := page.locator(".standing .state")).to_be_visible()
    while async_state.inner_text() == "Queued":
        page.get_by_role("link", name="Reload").click()
    page.get_by_role("button", name="Cancel").click()
    while async_state.inner_text() != "Cancelled":
        page.get_by_role("link", name="Reload").click()
    page.get_by_role("link", name="Change and run again").click()
    expect(page.get_by_label("Seconds")).to_have_value("60.0")
    page.goto("/jobs/")
    page.get_by_label("Filter by state").select_option("cancelled")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".rows > li")).to_have_count(1)


def test_a_job_is_started_and_stopped_by_keyboard_alone(person_page: Page) -> None:
    page = person_page

    def tab_to(role: str, name: str) -> None:
        target = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
        for _ in range(40):
            page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {name}")

    page.goto("/jobs/")
    tab_to("link", "New job")
    page.keyboard.press("Enter")
    tab_to("link", "Echo")
    page.keyboard.press("Enter")
    tab_to("spinbutton", "Number")
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    state(page, "Queued")
    tab_to("button", "Cancel")
    page.keyboard.press("Enter")
    state(page, "Cancelled")


def make_all_kinds(owner: User) -> list[str]:
    """One job of every look, with long names; return their addresses."""
    done = make_job(
        "succeeded",
        owner=owner,
        result={
            "items": 12_345, "note": LONG, "tree": {"a": [1, {LONG: 2}]},
            "rows": [{"name": LONG, "count": 3, "share": 0.5}],
        },
    )  # fmt: skip
    make_file(done, f"{LONG}.csv", b"name\n")
    parted = make_job("running", task="in_parts", owner=owner)
    for number, kind in enumerate(["succeeded", "failed", "running", "queued"]):
        make_job(kind, parent=parted, part=number)
    rest = [
        make_job(owner=owner, attempts=1, failures=1, message="To be tried again."),
        make_job("running", owner=owner, message=LONG),
        make_job("running", owner=owner, cancel_requested=True),
        make_job("cancelled", owner=owner),
        make_job("failed", owner=owner, task=LONG[:100], error_detail=LONG * 5),
    ]
    make_items(3, tags=["metal"])
    make_item(name=LONG, description=LONG, tags=["a" * 50])
    make_item(name=f"{LONG[1:]}b", description=f"{LONG} {LONG}", tags=["metal"])
    results = [
        do("catalogue_report", owner, tag=""),
        do("find_duplicates", owner, threshold=0.8, field="name", tag="", limit=9),
        do("heavy_computation", owner, size=1_000),
        do("export_items", owner, format="csv", search="", tag=""),
        do("import_items", owner, upload=b"id,name\na,\nb,B\n", file=f"{LONG}.csv"),
    ]
    return [job.get_absolute_url() for job in (done, parted, *rest, *results)]


def test_two_items_are_made_one(editor_page: Page, admin: User) -> None:
    page = editor_page
    make_item(id="a", name="Brass bolt")
    make_item(id="b", name="Brass bold")
    job = do("find_duplicates", admin, threshold=0.8, field="name", tag="", limit=9)
    page.goto(job.get_absolute_url())
    expect(page.get_by_role("deletion")).to_have_text("bolt")
    expect(page.get_by_role("insertion")).to_have_text("bold")
    page.get_by_role("button", name="Keep this one of pair 1: Brass bolt").click()
    pair = page.locator("#pair-1")
    expect(pair).to_contain_text("Still there")
    expect(pair.get_by_role("button")).to_have_count(0)
    pair.get_by_role("link", name="Brass bold").click()
    page.get_by_role("button", name="Undo the deletion").click()
    page.goto(job.get_absolute_url())
    expect(pair.get_by_role("button")).to_have_count(2)


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_no_page_of_jobs_has_a_fault(
    browsers: Browsers, admin: User, editor: User, scheme: str, width: int
) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    page, other = browsers.open(admin, **look), browsers.open(editor, **look)
    other.goto("/jobs/")
    check(other, width)
    stranger = User.objects.create_user("u" * 150)
    for address in ("/jobs/", "/jobs/new/", "/jobs/new/in_parts/"):
        page.goto(address)
        check(page, width)
    for address in (*make_all_kinds(stranger), "/jobs/", "/jobs/?state=failed"):
        page.goto(address)
        check(page, width)
    page.goto("/jobs/new/in_parts/")
    page.get_by_label("Parts").evaluate("input => input.type = 'text'")
    page.get_by_label("Parts").fill("many")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert").first).to_contain_text("Not started yet")
    check(page, width)
