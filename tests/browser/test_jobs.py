"""Pages of jobs in a browser; no pool is running."""

import re

import pytest
from django.contrib.auth.models import Group, User
from django.core.files.uploadedfile import SimpleUploadedFile
from playwright.sync_api import Page, Route, expect

from compute.models import Job
from items.apps import EDITORS
from tests.browser.conftest import LOOKS, Browsers
from tests.browser.test_accessibility import LONG, check
from tests.compute.factories import do, make_file, make_job
from tests.factories import make_item, make_items

pytestmark = pytest.mark.django_db(transaction=True)


def start(page: Page, task: str, **fields: str) -> None:
    """Start a job through its form."""
    page.goto("/jobs/")
    page.get_by_role("link", name="New job").click()
    page.get_by_role("link", name=task, exact=True).click()
    for label, value in fields.items():
        page.get_by_label(label.capitalize()).fill(value)
    page.get_by_role("button", name="Start").click()
    expect(page).to_have_url(re.compile("/jobs/[0-9a-f-]{36}/$"))


def expect_state(page: Page, name: str) -> None:
    expect(page.locator(".standing .state")).to_have_text(name)


def test_double_click_starts_one_job(person_page: Page) -> None:
    page = person_page
    page.goto("/jobs/new/echo/")
    page.get_by_role("button", name="Start").dblclick()
    expect_state(page, "Queued")
    assert Job.objects.count() == 1
    # The form can be used again after going back.
    page.go_back()
    page.get_by_label("Number").fill("8")
    page.get_by_role("button", name="Start").click()
    expect_state(page, "Queued")
    assert [job.params["number"] for job in Job.objects.order_by("id")] == [0, 8]


def test_list_refreshes_until_all_jobs_have_finished(
    person_page: Page, reader: User
) -> None:
    page = person_page
    job = make_job("running", owner=reader)
    other = make_job("succeeded", owner=reader, task="nap", params={})
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
    expect(page.get_by_role("heading", name="No matching jobs")).to_be_visible()


def test_page_recovers_from_a_server_that_does_not_answer(
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
    expect(page.get_by_role("alert")).to_contain_text("does not respond")
    expect_state(page, "Running")
    down = False
    job.delete()
    expect(page.get_by_role("alert")).to_contain_text("no such job")
    browsers.trouble = [
        text for text in browsers.trouble if not re.match("503|404|Response", text)
    ]


def make_all_kinds(owner: User) -> list[str]:
    """Make a job of each appearance, with long names; return their URLs."""
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
        make_job(owner=owner, attempts=1, failures=1, message="Will be retried."),
        make_job("running", owner=owner, message=LONG),
        make_job("running", owner=owner, cancel_requested=True),
        make_job("cancelled", owner=owner),
        make_job("failed", owner=owner, task=LONG[:100], error_detail=LONG * 5),
    ]
    make_items(3, tags=["metal"])
    make_item(name=LONG, description=LONG, tags=["a" * 50])
    make_item(name=f"{LONG[1:]}b", description=f"{LONG} {LONG}", tags=["metal"])
    owner.groups.add(Group.objects.get(name=EDITORS))  # who may import
    table = SimpleUploadedFile(f"{LONG}.csv", b"id,name\na,\nb,B\n")
    results = [
        do("catalogue_report", owner),
        do("find_duplicates", owner),
        do("heavy_computation", owner, size=1_000),
        do("export_items", owner),
        do("import_items", owner, file=table),
    ]
    return [job.get_absolute_url() for job in (done, parted, *rest, *results)]


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_pages_of_jobs_are_accessible_and_fit(
    browsers: Browsers, admin: User, editor: User, scheme: str, width: int
) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    page, other = browsers.open(admin, **look), browsers.open(editor, **look)
    other.goto("/jobs/")
    check(other, width)
    other_user = User.objects.create_user("u" * 150)
    for url in ("/jobs/", "/jobs/new/", "/jobs/new/in_parts/"):
        page.goto(url)
        check(page, width)
    for url in (*make_all_kinds(other_user), "/jobs/", "/jobs/?state=failed"):
        response = page.goto(url)
        assert response.ok, url
        check(page, width)
    page.goto("/jobs/new/in_parts/")
    page.get_by_label("Parts").evaluate("input => input.type = 'text'")
    page.get_by_label("Parts").fill("many")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert").first).to_contain_text("The job was not started")
    check(page, width)
