"""Gives the tests their environment and their servers.

Loaded with `-p`, as pytest-django reads the settings before any conftest.py runs.
TEST_DB=sqlite tests on SQLite. Otherwise it is PostgreSQL: TEST_DATABASE_URL, or a
private server. What a machine lacks is skipped with its reason; where CI=true it fails.
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
# Folders and files whose tests start sites and servers of their own.
SLOW = {"faults", "deploy", "drill", "load", "celery", "pool", "operations"}
SLOW |= {"test_site", "test_streams", "test_idempotency_kills", "test_events_relay"}
SLOW |= {"browser"}
# These end before a test runs.
INFORM_ONLY = {"--collect-only", "--co", "--fixtures", "--help", "-h", "--version"}

database = pytest.StashKey[str]()
private = pytest.StashKey[servers.Postgres]()
lacking = pytest.StashKey[str]()


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    for name in SETTINGS:
        os.environ.pop(name, None)
    os.environ.update(ENVIRONMENT)
    os.environ["DATA_DIR"] = _make_folder(early_config)
    if not is_worker:
        os.environ["FIRST_START"] = _make_folder(early_config)
    # make passes SIGTERM on: end as for Ctrl-C, so that the servers end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ignored under nohup; what the tests start would inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    if os.environ.get("TEST_DB") == "sqlite":
        early_config.stash[database] = "SQLite"
    elif url := os.environ.get("TEST_DATABASE_URL"):
        os.environ["DATABASE_URL"] = url
        early_config.stash[database] = "TEST_DATABASE_URL"
    elif not is_worker and any(arg.startswith("-n") for arg in args):
        # The order of the change feed depends on all transactions of a server.
        early_config.stash[database] = "a private PostgreSQL for each worker"
    elif not INFORM_ONLY & set(args):
        _start_postgres(early_config)


def _make_folder(config: pytest.Config) -> str:
    folder = tempfile.mkdtemp(prefix="rs-data-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


def _start_postgres(config: pytest.Config) -> None:
    try:
        server = servers.Postgres()
    except LookupError as error:
        if _in_ci():
            raise pytest.UsageError(str(error)) from None
        config.stash[lacking] = str(error)
        return
    config.add_cleanup(server.close)
    config.stash[private] = server
    os.environ["DATABASE_URL"] = server.start().url()
    config.stash[database] = f"PostgreSQL from {server.bin}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives a real browser")
    config.addinivalue_line("markers", "faults: breaks what a whole site stands on")
    config.addinivalue_line("markers", "once: on PostgreSQL alone, or the same on both")


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {config.stash.get(database, 'none')}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    # Files that mostly wait go first, so that the workers end at the same time.
    items.sort(key=lambda item: not SLOW & set(item.path.with_suffix("").parts))
    if reason := config.stash.get(lacking, None):
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if reason := config.stash.get(lacking, None):
        terminalreporter.write_line(f"All skipped: {reason}", yellow=True)


def _make[S: servers.Server](kind: type[S]) -> S:
    try:
        return kind()
    except LookupError as error:
        reason = str(error)
    if _in_ci():
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
        pytest.skip("the tests have no PostgreSQL of their own")
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


@pytest.fixture
def rabbitmq_own() -> Iterator[servers.RabbitMQ]:
    """The test's own RabbitMQ, which it may stop, kill or pause."""
    yield from running(servers.RabbitMQ)
