"""The status page of those who are signed in, and what staff can do on it."""

import gc
import logging
import os
import re

import pytest
from django.db import OperationalError, connection
from django.test import Client

from resilient_site.cache.memory import MemoryCache
from resilient_site.health import views
from resilient_site.resilience import breakers
from resilient_site.resilience.bounded_dict import Latest
from resilient_site.resilience.breaker_overrides import Holds
from resilient_site.resilience.breakers import State

pytestmark = pytest.mark.django_db


@pytest.fixture
def holds(tmp_path, monkeypatch):
    holds = Holds(tmp_path / "breakers.json")
    monkeypatch.setattr(views, "holds", holds)
    yield holds
    holds.path.unlink(missing_ok=True)
    holds.apply()


@pytest.fixture
def staff(client, admin):
    client.force_login(admin)
    return client


def test_everybody_sees_what_works_and_only_staff_sees_more(client, reader, admin):
    stranger = client.get("/status/").content.decode()
    client.force_login(reader)
    signed_in = client.get("/status/").content.decode()
    client.force_login(admin)
    staff = client.get("/status/").content.decode()
    for page in (stranger, signed_in, staff):
        assert "Everything works." in page
        assert "The catalogue can be read and changed." in page
    for page in (stranger, signed_in):
        assert "Breakers" not in page
        assert "in memory" not in page
    assert "rita" in signed_in
    for what in ("Breakers", "Rate limits are counted", "Waiting", "Private memory"):
        assert what in staff


def test_status_page_shows_staff_the_memory_of_the_process(staff):
    known = Latest[str, int](7, "Known in this test")
    known["a"] = 1
    options = {"OPTIONS": {"MEMORY_BYTES": 5 * 1024**3}}
    MemoryCache("status page", options).set("key", "x" * 2_000)
    frozen = gc.get_freeze_count()
    told = staff.get("/status/?format=json").json()["process"]
    assert told["Known in this test"] == "1 of 7"
    assert told["Process id"] == str(os.getpid())
    assert told["Frozen objects"] == f"{frozen:,}"
    assert re.fullmatch(
        r"[1-9]\d* in [\d.]+.[KM]B of 5\.[\d]+.GB", told["Cache in memory"]
    )
    assert re.fullmatch(r"\d+ in .+ of 64.0.MB", told["Cached responses"])
    assert told["Memory"].endswith("MB")
    assert told["Garbage collections (young, middle, old)"].count(", ") >= 2


def test_programs_of_staff_are_told_more(staff, client, reader):
    told = staff.get("/status/?format=json").json()
    assert {row["now"]["name"] for row in told["breakers"]} >= {"cache", "database"}
    assert told["checks"]["compute"][0]["figures"]["Jobs under way"] == "0"
    client.force_login(reader)
    assert "breakers" not in client.get("/status/?format=json").json()


def test_without_the_database_the_public_page_is_shown(staff):
    def fail(*_):
        raise OperationalError("gone")

    with connection.execute_wrapper(fail):
        answer = staff.get("/status/")
    assert answer.status_code == 200
    assert "The database does not answer" in answer.content.decode()
    assert "Breakers" not in answer.content.decode()


def test_staff_holds_a_breaker_and_lets_it_go(staff, holds, caplog):
    caplog.set_level(logging.WARNING)
    answer = staff.post("/status/breakers/cache/", {"state": "open"}, follow=True)
    page = answer.content.decode()
    assert "The breaker “cache” is held open." in page
    assert "Held open by ada" in page
    assert "cache: breaker held open by ada." in caplog.messages
    assert breakers.cache.state is State.OPEN
    answer = staff.post("/status/breakers/cache/", {"state": "free"}, follow=True)
    assert "Held open" not in answer.content.decode()
    assert breakers.cache.state is State.CLOSED
    assert holds.current() == {}


def test_only_staff_may_hold_a_breaker(client, reader, holds):
    address = "/status/breakers/cache/"
    assert client.post(address, {"state": "open"}).status_code == 302
    client.force_login(reader)
    assert client.post(address, {"state": "open"}).status_code == 403
    assert breakers.cache.state is State.CLOSED
    assert not holds.path.exists()


def test_a_form_from_elsewhere_holds_nothing(admin, holds):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)
    answer = client.post("/status/breakers/cache/", {"state": "open"})
    assert answer.status_code == 403
    assert not holds.path.exists()


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [("other", "open", 404), ("cache", "half open", 400), ("cache", "", 400)],
)
def test_what_cannot_be_held_is_refused(staff, holds, name, state, expected):
    answer = staff.post(f"/status/breakers/{name}/", {"state": state})
    assert answer.status_code == expected
    assert not holds.path.exists()
