"""A form that could not be saved comes back filled; JavaScript is off."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.db import OperationalError
from django.db.backends.utils import CursorWrapper
from playwright.sync_api import Page, expect

from compute.models import Job
from items.models import Item
from resilient_site.models import ApiToken
from tests.browser.conftest import LOOKS, Browsers
from tests.browser.test_accessibility import check
from tests.factories import make_item

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = "M8, “40 mm” <b>\n  and a second line"
FORMS: list[tuple[str, str, dict[str, str]]] = [
    ("/items/-/new/", "Create", {"name": "Nut", "description": TEXT, "tags": "a b"}),
    ("/items/bolt/edit/", "Save", {"name": "Bolt 2", "description": TEXT}),
    ("/jobs/new/find_duplicates/", "Start", {"threshold": "0.9"}),
    ("/account/tokens/", "Create token", {"name": "nightly"}),
]


def written() -> Any:
    versions = [*Item.objects.order_by("id").values_list("id", "version")]
    return versions, Job.objects.count(), ApiToken.objects.count()


def end_sessions() -> None:
    Session.objects.all().delete()
    caches["sessions"].clear()


def send(page: Page, form: Any, happens: Callable[[], None]) -> None:
    """Fill a form and send it, when something has happened meanwhile."""
    address, button, typed = form
    page.goto(address)
    for name, value in typed.items():
        page.locator(f"main [name={name}]").fill(value)
    happens()
    with page.expect_navigation():
        page.get_by_role("button", name=button, exact=True).click()


execute = CursorWrapper.execute


def fail_to_write(self: CursorWrapper, sql: Any, params: Any = None) -> Any:
    if re.search(r"\b(INSERT INTO|UPDATE)\b", str(sql)):
        raise OperationalError("gone")
    return execute(self, sql, params)


def sign_in(page: Page) -> None:
    expect(page.locator("#error-detail")).to_contain_text("session has ended")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("ada-s-password")
    with page.expect_navigation():
        page.get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
def test_form_comes_back_filled(
    browsers: Browsers, admin: User, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    make_item(id="bolt")
    page = browsers.open(admin, java_script_enabled=False)

    def lose_token() -> None:
        page.context.clear_cookies(name="csrftoken")

    def lose_database() -> None:
        monkeypatch.setattr(CursorWrapper, "execute", fail_to_write)

    for happens in {
        "Create": (lose_token, lose_database, end_sessions),
        "Start": (lose_database,),
    }.get(form[1], (end_sessions,)):
        Item.objects.filter(pk="bolt").update(name="Brass bolt")
        before = written()
        send(page, form, happens)
        again = page.get_by_role("button", name="Send again")
        expect(again.or_(page.get_by_label("Username"))).to_be_visible()
        monkeypatch.undo()
        if happens is end_sessions:
            sign_in(page)
        expect(again).to_be_visible()
        for name, value in form[2].items():
            expect(page.locator(f"main [name={name}]")).to_have_value(value)
        assert written() == before
        again.click()
        expect(again).to_have_count(0)
        assert written() != before


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_pages_with_a_sent_form_have_no_fault(
    browsers: Browsers, admin: User, scheme: str, width: int
) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    page = browsers.open(admin, **look)
    send(page, FORMS[0], lambda: page.context.clear_cookies(name="csrftoken"))
    check(page, width)
    send(page, FORMS[0], end_sessions)
    check(page, width)
    sign_in(page)
    check(page, width)
