"""The status page for users, and the circuit breaker overrides of operators."""

import gc
import logging
import re

import pytest

from compute import health as job_health
from items.changes import health as feed_health
from resilient_site.cache.memory import MemoryCache
from resilient_site.health import views
from resilient_site.operations import doctor
from resilient_site.resilience import breaker_overrides, breakers
from resilient_site.resilience.breaker_overrides import BreakerOverrides
from resilient_site.resilience.breakers import State
from tests.factories import allow

pytestmark = [pytest.mark.once, pytest.mark.django_db]


@pytest.fixture
def overrides(tmp_path, monkeypatch):
    overrides = BreakerOverrides(tmp_path / "breakers.json")
    monkeypatch.setattr(views, "breaker_overrides", overrides)
    monkeypatch.setattr(breaker_overrides, "breaker_overrides", overrides)
    yield overrides
    overrides.path.unlink(missing_ok=True)
    overrides.apply()


@pytest.fixture
def staff(client, admin):
    client.force_login(admin)
    return client


def test_status_page_shows_details_to_staff_only(client, reader, admin, monkeypatch):
    monkeypatch.setattr(job_health, "TIMEOUT_S", 60)
    monkeypatch.setattr(feed_health, "PATIENCE_S", 60)
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
    asked = {"state": "open", "minutes": "5"}
    answer = staff.post("/status/breakers/cache/", asked, follow=True)
    page = answer.content.decode()
    assert "Circuit breaker “cache”: forced open for 5 minutes." in page
    assert "Forced open by ada until" in page
    assert "Circuit breaker cache: forced open for 5 minutes by ada." in caplog.messages
    assert breakers.cache.state is State.OPEN
    text = "The circuit breaker for the cache is forced open until"
    verbose = staff.get("/readyz?verbose").json()
    assert text in verbose["checks"]["overrides"][0]["output"]
    assert b"overrides" in staff.get("/readyz").content
    assert text in next(doctor.overrides()).what
    answer = staff.post("/status/breakers/cache/", {"state": "free"}, follow=True)
    assert "Forced open" not in answer.content.decode()
    assert breakers.cache.state is State.CLOSED
    assert overrides.current() == {}
    assert next(doctor.overrides()).level == "ok"


def test_staff_needs_permissions_for_details_and_overrides(client, reader, overrides):
    address, asked = "/status/breakers/cache/", {"state": "closed", "minutes": "60"}
    assert client.post(address, asked).status_code == 302
    reader.is_staff = True
    reader.save()
    client.force_login(reader)
    assert "breakers" not in client.get("/status/?format=json").json()
    allow(reader, "view_status_details")
    assert "breakers" in client.get("/status/?format=json").json()
    assert "Force closed" not in client.get("/status/").content.decode()
    assert client.post(address, asked).status_code == 403
    assert not overrides.path.exists()
    allow(reader, "override_breakers")
    assert "Force closed" in client.get("/status/").content.decode()
    assert client.post(address, asked).status_code == 302
    assert breakers.cache.forced is State.CLOSED


def test_database_is_not_forced_open_from_the_web(staff, overrides):
    address = "/status/breakers/database/"
    answer = staff.post(address, {"state": "open", "minutes": "5"})
    assert answer.status_code == 400
    assert not overrides.path.exists()
    page = staff.get("/status/").content.decode()
    assert ("Force cache open" in page, "Force database open" in page) == (True, False)
    assert staff.post(address, {"state": "closed", "minutes": "5"}).status_code == 302


@pytest.mark.parametrize(
    ("name", "state", "minutes", "expected"),
    [
        ("other", "open", "5", 404),
        ("cache", "half open", "5", 400),
        ("cache", "", "5", 400),
        ("cache", "open", "61", 400),
        ("cache", "open", "", 400),
    ],
)
def test_wrong_override_is_an_error(staff, overrides, name, state, minutes, expected):
    data = {"state": state, "minutes": minutes}
    answer = staff.post(f"/status/breakers/{name}/", data)
    assert answer.status_code == expected
    assert not overrides.path.exists()
