"""What a look at the database, the cache and the edge finds."""

import pytest
from django.conf import settings as site
from django.core.cache import caches
from django.db import OperationalError, connection
from django.test import override_settings

from resilient_site import settings as as_started
from resilient_site.edge.admission import Admission
from resilient_site.edge.health_check import RUSH_S, Edge
from resilient_site.edge.request import Kind
from resilient_site.health import checks
from resilient_site.health.components import Status
from resilient_site.postgres.heartbeat import pulse
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker, State
from tests.private_server import wait_for
from tests.resilient_site.health.test_watching import Clock


@pytest.mark.django_db
def test_the_database_is_asked():
    found = checks.database()
    assert (found.status, found.figures) == (
        Status.PASS,
        (("Kind", connection.vendor),),
    )


@pytest.mark.django_db
def test_a_database_that_fails_is_away():
    def fail(*_):
        raise OperationalError("disk I/O error")

    with connection.execute_wrapper(fail):
        found = checks.database()
    assert found.status is Status.FAIL
    assert "nothing can be saved" in found.meaning
    assert found.error == "OperationalError: disk I/O error"


@pytest.mark.django_db
def test_where_the_pulse_beats_its_word_counts(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(type(pulse), "is_running", True)
    with django_assert_num_queries(0):
        assert checks.database().status is Status.PASS
        breaker = Breaker("database")
        monkeypatch.setattr(breakers, "database", breaker)
        breaker.trip(TimeoutError("no answer"))
        assert checks.database().error == "TimeoutError: no answer"


def test_memory_alone_is_no_degradation():
    caches["default"].set("a", 1)
    caches["default"].get("a")
    found = checks.cache()
    assert found.status is Status.PASS
    figures = dict(found.figures)
    assert " entries, " in figures["In memory"]
    assert figures["Rate limits are counted"] == "by each process for itself"


def test_a_cache_that_hangs_is_found_without_any_request(redis_own, breaker):
    with override_settings(CACHES=as_started.caches(redis_own.url())):
        found = checks.cache()
        assert found.status is Status.PASS
        assert dict(found.figures)["Rate limits are counted"].endswith("together")
        redis_own.pause()
        for _ in range(3):
            found = checks.cache()
        assert found.status is Status.WARN
        assert "nothing is lost" in found.meaning
        assert "Timeout" in found.error
        redis_own.resume()
        wait_for(lambda: checks.cache().status is Status.PASS)
        breaker.hold(State.OPEN)
        assert checks.cache().status is Status.WARN
    assert breakers.cache is breaker
    assert not site.REDIS_URL


def test_a_rush_is_seen_from_its_refusals_for_a_while():
    clock, admission = Clock(), Admission(4)
    edge = Edge(admission, clock)
    assert edge.check().status is Status.PASS
    admission.refused[Kind.READ] += 3
    found = edge.check()
    assert found.status is Status.WARN
    assert "3 refused" in dict(found.figures)["Reads of others"]
    clock.now += RUSH_S - 1
    assert edge.check().status is Status.WARN
    clock.now += 2
    assert edge.check().status is Status.PASS
