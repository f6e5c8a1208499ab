"""Health checks of the database and the cache."""

import pytest
from django.core.cache import caches
from django.db import OperationalError, connection
from django.test import override_settings

from resilient_site import settings as as_started
from resilient_site.health import checks
from resilient_site.health.components import Status
from resilient_site.postgres.heartbeat import heartbeat
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker, State
from tests.private_server import wait_for


@pytest.mark.django_db
def test_database_that_answers_passes():
    found = checks.database()
    assert (found.status, found.figures) == (
        Status.PASS,
        (("Kind", connection.vendor),),
    )


@pytest.mark.django_db
def test_database_that_raises_fails():
    def fail(*_):
        raise OperationalError("disk I/O error")

    with connection.execute_wrapper(fail):
        found = checks.database()
    assert found.status is Status.FAIL
    assert "Changes cannot be saved" in found.meaning
    assert found.error == "OperationalError: disk I/O error"


@pytest.mark.django_db
def test_database_is_not_queried_beside_the_heartbeat(
    monkeypatch, django_assert_num_queries
):
    monkeypatch.setattr(type(heartbeat), "is_running", True)
    with django_assert_num_queries(0):
        assert checks.database().status is Status.PASS
        breaker = Breaker("database")
        monkeypatch.setattr(breakers, "database", breaker)
        breaker.trip(TimeoutError("no answer"))
        assert checks.database().error == "TimeoutError: no answer"


@pytest.mark.once
def test_cache_in_process_memory_passes():
    caches["default"].set("a", 1)
    caches["default"].get("a")
    found = checks.cache()
    assert found.status is Status.PASS
    figures = dict(found.figures)
    assert " entries, " in figures["In memory"]
    assert figures["Rate limits are counted"] == "by each process"


@pytest.mark.once
def test_cache_that_hangs_is_found_without_any_request(redis_own, breaker):
    with override_settings(CACHES=as_started.caches(redis_own.url())):
        wait_for(lambda: checks.cache().status is Status.PASS)
        counted = lambda: dict(checks.cache().figures)["Rate limits are counted"]  # noqa: E731
        wait_for(lambda: counted() == "together")
        redis_own.pause()
        for _ in range(3):
            found = checks.cache()
        assert found.status is Status.WARN
        assert "nothing is lost" in found.meaning
        assert "Timeout" in found.error
        redis_own.resume()
        wait_for(lambda: checks.cache().status is Status.PASS)
        breaker.override(State.OPEN)
        assert checks.cache().status is Status.WARN
