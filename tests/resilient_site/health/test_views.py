"""The status page for users, and the circuit breaker overrides of staff."""

import gc
import logging
import re

import pytest

from resilient_site.cache.memory import MemoryCache
from resilient_site.health import views
from resilient_site.resilience import breakers
from resilient_site.resilience.breaker_overrides import BreakerOverrides
from resilient_site.resilience.breakers import State

pytestmark = [pytest.mark.once, pytest.mark.django_db]


@pytest.fixture
def overrides(tmp_path, monkeypatch):
    overrides = BreakerOverrides(tmp_path / "breakers.json")
    monkeypatch.setattr(views, "breaker_overrides", overrides)
    yield overrides
    overrides.path.unlink(missing_ok=True)
    overrides.apply()


@pytest.fixture
def staff(client, admin):
    client.force_login(admin)
    return client


def test_status_page_shows_details_to_staff_only(client, reader, admin):
    anonymous = client.get("/status/").content.decode()
    client.force_login(reader)
    signed_in = client.get("/status/").content.decode()
    client.force_login(admin)
    staff = client.get("/status/").content.decode()
    for page in (anonymous, signed_in, staff):
        assert "Everything works." in page
        assert "The catalogue can be read and changed." in page
    for page in (anonymous, signed_in):
        assert "Circuit breakers" not in page
        assert "in memory" not in page
    assert "rita" in signed_in
    for what in ("Circuit breakers", "Rate limits are counted", "Waiting", "Memory"):
        assert what in staff


def test_status_page_shows_staff_the_memory_of_the_process(staff):
    options = {"OPTIONS": {"MEMORY_BYTES": 5 * 1024**3}}
    MemoryCache("status page", options).set("key", "x" * 2_000)
    found = staff.get("/status/?format=json").json()["process"]
    assert re.fullmatch(
        r"[1-9]\d* in [\d.]+.[KM]B of \d+\.\d+.GB", found["Cache in memory"]
    )
    assert re.fullmatch(r"\d+ in .+ of 64.0.MB", found["Cached responses"])
    assert found["Memory"].endswith("MB")
    assert found["Private memory"].endswith("MB")
    assert found["Frozen objects"] == f"{gc.get_freeze_count():,}"
    assert found["Garbage collections (young, middle, old)"].count(", ") >= 2
    assert found["Recycled after"] == "10,000,000 requests"
    assert re.fullmatch(r"\d+ of 20,000", found["Verified credentials"])


def test_status_json_has_details_for_staff_only(staff, client, reader):
    found = staff.get("/status/?format=json").json()
    assert {row["now"]["name"] for row in found["breakers"]} >= {"cache", "database"}
    assert found["checks"]["compute"][0]["figures"]["Running jobs"] == "0"
    client.force_login(reader)
    assert "breakers" not in client.get("/status/?format=json").json()


def test_staff_overrides_a_breaker_and_removes_the_override(staff, overrides, caplog):
    caplog.set_level(logging.WARNING)
    answer = staff.post("/status/breakers/cache/", {"state": "open"}, follow=True)
    page = answer.content.decode()
    assert "Circuit breaker “cache”: forced open." in page
    assert "Forced open by ada" in page
    assert "Circuit breaker cache: forced open by ada." in caplog.messages
    assert breakers.cache.state is State.OPEN
    answer = staff.post("/status/breakers/cache/", {"state": "free"}, follow=True)
    assert "Forced open" not in answer.content.decode()
    assert breakers.cache.state is State.CLOSED
    assert overrides.current() == {}


def test_only_staff_may_override_a_breaker(client, reader, overrides):
    address = "/status/breakers/cache/"
    assert client.post(address, {"state": "open"}).status_code == 302
    client.force_login(reader)
    assert client.post(address, {"state": "open"}).status_code == 403
    assert breakers.cache.state is State.CLOSED
    assert not overrides.path.exists()


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [("other", "open", 404), ("cache", "half open", 400), ("cache", "", 400)],
)
def test_unknown_breaker_or_state_is_an_error(staff, overrides, name, state, expected):
    answer = staff.post(f"/status/breakers/{name}/", {"state": state})
    assert answer.status_code == expected
    assert not overrides.path.exists()
