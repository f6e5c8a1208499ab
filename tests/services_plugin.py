"""Gives the tests their environment and their servers.

Loaded with `-p`, as pytest-django reads the settings before any conftest.py runs.
TEST_DB=sqlite tests on SQLite, else on a private PostgreSQL. What other servers a
machine lacks is skipped with its reason; where CI=true it fails.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import servers

ENVIRONMENT = {
    "SECRET_KEY": "test-only-0123456789-0123456789-0123456789-0123456789",
    "ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
    "HTTPS": "0",
}
# Names of all settings: a run takes none from outside.
EXAMPLE = Path(__file__).parent.parent / ".env.example"
SETTINGS = set(re.findall(r"^# ([A-Z][A-Z0-9_]+)=", EXAMPLE.read_text(), re.M))
# Folders and files whose tests start sites and servers of their own, longest first: the
# workers of a run end at the same time.
SLOW = (
    "faults", "celery", "test_serve", "pool", "test_streams", "test_production",
    "test_site", "test_events_relay", "browser", "deploy", "load", "operations",
    "test_worker", "test_idempotency_kills", "test_memory_usage",
)  # fmt: skip
# These end before a test runs.
INFORM_ONLY = {"--collect-only", "--co", "--fixtures", "--help", "-h", "--version"}

private = pytest.StashKey[servers.Postgres]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    for name in SETTINGS:
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
    os.environ.update(ENVIRONMENT)
    os.environ["DATA_DIR"] = _make_folder(early_config)
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    is_distributing = not is_worker and any(arg.startswith("-n") for arg in args)
    if not is_worker:
        os.environ["FIRST_START"] = _make_folder(early_config)
    # make passes SIGTERM on: end as for Ctrl-C, so that the servers end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ignored under nohup; what the tests start would inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    # Each worker has its own, as the change feed's order depends on all transactions of
    # a server.
    if not (
        os.environ.get("TEST_DB") == "sqlite"
        or is_distributing
        or INFORM_ONLY & {*args}
    ):
        server = early_config.stash[private] = servers.Postgres()
        early_config.add_cleanup(server.close)
        os.environ["DATABASE_URL"] = server.start().url()


def _make_folder(config: pytest.Config) -> str:
    folder = tempfile.mkdtemp(prefix="rs-data-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives a real browser")
    config.addinivalue_line("markers", "faults: breaks what a whole site stands on")
    config.addinivalue_line("markers", "once: on PostgreSQL alone, or the same on both")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    parts = item.path.with_suffix("").parts
    return next((n for n, name in enumerate(SLOW) if name in parts), len(SLOW))


def _make[S: servers.Server](kind: type[S]) -> S:
    try:
        return kind()
    except LookupError as error:
        reason = str(error)
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def running[S: servers.Server](kind: type[S]) -> Iterator[S]:
    server = _make(kind)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.Redis]:
    """The session's Redis: shared, so not to be stopped."""
    yield from running(servers.Redis)


@pytest.fixture
def redis_own() -> Iterator[servers.Redis]:
    """The test's own Redis, which it may stop, kill or pause."""
    yield from running(servers.Redis)
    _forget_redis()


def _forget_redis() -> None:
    """Let nothing in this process go on looking for a Redis that is gone."""
    from django.core.cache import caches

    from resilient_site.cache import backend
    from resilient_site.resilience import breakers

    backend.server_state.cache_clear()
    # Else this thread would go on with one store and new threads with another.
    for alias in list(caches):
        with suppress(AttributeError):  # none was made
            del caches[alias]
    breakers.cache.reset()


@pytest.fixture
def postgres_server(
    pytestconfig: pytest.Config, transactional_db: None
) -> Iterator[servers.Postgres]:
    """The PostgreSQL of all tests, which this one may stop, kill or pause."""
    from django.db import connection

    if private not in pytestconfig.stash:
        pytest.skip("the tests run on SQLite")
    server = pytestconfig.stash[private]
    try:
        yield server
    finally:
        server.resume() if server.running() else server.start()
        connection.close()


@pytest.fixture
def postgres_own() -> Iterator[servers.Postgres]:
    """The test's own PostgreSQL, which it may stop, kill or pause."""
    yield from running(servers.Postgres)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[servers.RabbitMQ]:
    """The session's RabbitMQ: shared, so not to be stopped."""
    yield from running(servers.RabbitMQ)
