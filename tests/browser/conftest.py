"""A real Chromium against the live server; each test has browsers of its own.

A test fails for whatever a person's console would show: errors of scripts, breaches
of the content security policy, missing files, requests that leave the site.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from tests.compute.conftest import gate, module_pool, pool  # noqa: F401 - fixtures

# Playwright runs an event loop in this thread, where Django would refuse the database.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"

ARGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
# What a loaded machine may take.
TIMEOUT_MS = 90_000
expect.set_options(timeout=TIMEOUT_MS)
# What a page is looked at in: each scheme of colours, and each width.
LOOKS = [("light", 1280), ("dark", 320)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


# Not for the session: Playwright has an event loop run in this thread, in which no
# other test could run one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if not executable:
        reason = "no chromium on this machine"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    # Chromium's own sandbox does not work for root.
    args = [*ARGS, "--no-sandbox"] if os.geteuid() == 0 else ARGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=args, timeout=TIMEOUT_MS
        )
        yield browser
        browser.close()


@dataclass
class Browsers:
    """Opens browsers that are alone: with cookies and a cache of their own."""

    browser: Browser
    url: str
    contexts: list[BrowserContext] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def open(self, user: User | None = None, **options: Any) -> Page:
        context = self.browser.new_context(base_url=self.url, **options)
        context.set_default_timeout(TIMEOUT_MS)
        self.contexts.append(context)
        if user:
            client = Client()
            client.force_login(user)
            name = django_settings.SESSION_COOKIE_NAME
            value = client.cookies[name].value
            context.add_cookies([{"name": name, "value": value, "url": self.url}])
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.trouble.append(str(error.error)))
        context.on("request", self._on_request)
        context.on("response", self._on_response)
        return context.new_page()

    def _on_console(self, message: ConsoleMessage) -> None:
        # A page with an error status is logged as well; `_on_response` sees the rest.
        if message.text.startswith("Failed to load resource"):
            return
        if message.type == "error" or "Content Security Policy" in message.text:
            self.trouble.append(message.text)

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.trouble.append(f"left the site: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.request.resource_type != "document":
            self.trouble.append(f"{response.status}: {response.url}")


def tab_to(target: Locator) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(40):
        target.page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {target}")


@pytest.fixture
def browsers(browser: Browser, live_server: Any) -> Iterator[Browsers]:
    browsers = Browsers(browser, live_server.url)
    yield browsers
    for context in browsers.contexts:
        context.close()
    assert browsers.trouble == []


@pytest.fixture
def page(browsers: Browsers) -> Page:
    """A page of somebody who has not signed in."""
    return browsers.open()


@pytest.fixture
def person_page(browsers: Browsers, reader: User) -> Page:
    return browsers.open(reader)


@pytest.fixture
def editor_page(browsers: Browsers, admin: User) -> Page:
    return browsers.open(admin)
