"""Rate limits: the client and the policy that a request counts for, and the fields."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django_ratelimit import core
from hypothesis import given
from hypothesis import strategies as st

from resilient_site import settings as as_started
from resilient_site.models import ApiToken
from resilient_site.observability.metrics import RATE_LIMITED
from resilient_site.ratelimit import middleware as ratelimit
from resilient_site.ratelimit.middleware import (
    RateLimitMiddleware,
    get_status,
)
from resilient_site.ratelimit.policies import Policy, override_policies
from tests.factories import make_item
from tests.private_server import wait_for
from tests.resilient_site.cache.test_backend import recover

pytestmark = pytest.mark.once

ITEM = "/api/v1/items/country.DE"
TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@pytest.fixture(autouse=True)
def fresh_limiter(breaker) -> Iterator[None]:
    ratelimit.warn_of_missing_addresses.cache_clear()
    caches["rates"].clear()
    yield
    caches["rates"].clear()


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The clock of the windows."""
    clock = SimpleNamespace(now=1_800_000_000.0)
    monkeypatch.setattr(core, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


@pytest.fixture
def limits(settings: Any, clock: Any) -> Any:
    """Change the quotas, as the environment may; `limits("read=3/m")`."""
    table = settings.RATE_LIMITS

    def limits(text: str) -> None:
        settings.RATE_LIMITS = override_policies(table, text)

    return limits


def left(response: Any) -> tuple[str, int, int]:
    name, r, t = re.fullmatch(
        r'"([a-z-]+)";r=(\d+);t=(\d+)', response["RateLimit"]
    ).groups()
    return name, int(r), int(t)


def middleware(answer: Any = None) -> RateLimitMiddleware:
    return RateLimitMiddleware(lambda request: answer or HttpResponse("ok"))


def token_of(user: Any) -> dict[str, str]:
    _, token = ApiToken.objects.create(user)
    return {"Authorization": f"Token {token}"}


# --- what is answered


@pytest.mark.django_db
def test_rest_rejection_is_a_problem_with_retry_after(client, limits):
    limits("anonymous-read=2/m")
    make_item(id="country.DE")
    counted = RATE_LIMITED.labels("anonymous-read")._value
    before = counted.get()
    answers = [client.get(ITEM) for _ in range(3)]
    assert counted.get() == before + 1
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [left(answer)[1] for answer in answers] == [1, 0, 0]
    rejected = answers[-1]
    assert rejected["Content-Type"] == "application/problem+json"
    assert rejected["RateLimit-Policy"] == '"anonymous-read";q=2;w=60'
    assert rejected["Cache-Control"] == "no-store"
    problem = rejected.json()
    assert problem["type"] == TYPE
    assert problem["violated-policies"] == ["anonymous-read"]
    assert (problem["code"], problem["status"]) == ("rate_limited", 429)
    assert int(rejected["Retry-After"]) >= left(rejected)[2] >= 1


@pytest.mark.django_db
def test_every_response_has_the_rate_limit_fields(client, clock, settings, monkeypatch):
    make_item(id="country.DE")
    read = client.get(ITEM)
    etag = {"If-None-Match": read["ETag"]}
    page = client.get("/items/")
    client.raise_request_exception = False

    def fail(*args: Any) -> None:
        raise RuntimeError("x")

    monkeypatch.setattr("items.views.ListQuery.parse", fail)
    answers = [
        (200, read),
        (304, client.get(ITEM, headers=etag)),
        (200, page),
        (404, client.get("/api/v1/items/none")),
        (404, client.get("/nowhere/")),
        (401, client.post("/api/v1/items", {}, "application/json")),
        (302, client.get("/account/tokens/")),
        (413, client.post("/items/-/new/", "x" * (settings.MAX_BODY_BYTES + 1), "a/b")),
        (403, Client(enforce_csrf_checks=True).post("/account/sign-in/")),
        (500, client.get("/items/")),
    ]
    for status, answer in answers:
        assert answer.status_code == status
        name, r, t = left(answer)
        quota = site_settings.RATE_LIMITS[name][2]
        assert answer["RateLimit-Policy"] == f'"{name}";q={quota};w=60'
        assert 0 <= r < quota
        assert 1 <= t <= 60


# --- who is counted, and for what


POLICIES = {
    "client": [
        ("GET", "/items/", "anonymous-read"),
        ("HEAD", "/api/v1/items", "anonymous-read"),
        ("OPTIONS", "/api/v1/items", "anonymous-read"),
        ("GET", "/account/sign-in/", "anonymous-read"),
        ("POST", "/account/sign-in/", "sign-in"),
        ("POST", "/admin/login/", "sign-in"),
        ("POST", "/api/v1/items/", "anonymous-write"),
        ("GET", "/api/v1/items/-/export/", "anonymous-export"),
        ("GET", "/api/v1/heavy_computation?size=-1", "anonymous-heavy"),
        ("POST", "/api/v1/jobs/", "anonymous-heavy"),
        ("GET", "/api/v1/jobs/", "anonymous-read"),
        ("POST", "/jobs/new/find_duplicates/", "anonymous-heavy"),
    ],
    "editor_client": [
        ("GET", "/items/", "read"),
        ("POST", "/items/-/new/", "write"),
        ("GET", "/api/v1/items/-/export", "export"),
        ("POST", "/jobs/new/nothing/", "heavy"),
        ("POST", "/account/tokens/", "tokens"),
        # By address: an account is no way around this limit.
        ("POST", "/account/sign-in/", "sign-in"),
        ("POST", "/admin/login/", "sign-in"),
    ],
}


@pytest.mark.django_db
@pytest.mark.parametrize("kind", POLICIES)
def test_request_has_the_policy_of_its_view_and_client(request, kind):
    client = request.getfixturevalue(kind)
    found = [left(client.generic(m, path))[0] for m, path, _ in POLICIES[kind]]
    assert found == [policy for _, _, policy in POLICIES[kind]]


@pytest.mark.django_db
def test_two_users_at_one_address_are_two_clients(client, reader, editor, limits):
    limits("read=1/m")
    for user in (reader, editor):
        client.force_login(user)
        assert client.get("/items/").status_code == 200
        assert client.get("/items/").status_code == 429


@pytest.mark.django_db
def test_quota_is_of_the_person_with_all_tokens_and_sessions(client, reader, limits):
    limits("read=5/m")
    for token, used in ((token_of(reader), 0), (token_of(reader), 2)):
        found = [left(client.get("/api/v1/items", headers=token)) for _ in range(3)]
        assert [name for name, *_ in found] == ["unproven-token", "read", "read"]
        assert [r for _, r, _ in found[1:]] == [4 - used, 3 - used]
    client.force_login(reader)
    assert left(client.get("/api/v1/items"))[1] == 0
    assert client.get("/api/v1/items").status_code == 429
    assert client.get("/api/v1/items", headers=token).status_code == 429


@pytest.mark.django_db
def test_invented_tokens_count_for_the_address(client, limits):
    """Or a new one for each request would be a way around the limits."""
    limits("unproven-token=5/m")
    statuses = [
        client.get(
            "/api/v1/heavy_computation", headers={"Authorization": f"Token {n:064}"}
        ).status_code
        for n in range(10)
    ]
    assert statuses == [401] * 5 + [429] * 5


@pytest.mark.django_db
def test_token_counts_only_on_rest_paths(client, reader):
    token = token_of(reader)
    client.get("/api/v1/items", headers=token)
    assert left(client.get("/items/", headers=token))[0] == "anonymous-read"


@pytest.mark.django_db
def test_probes_and_static_files_are_never_limited(client, limits):
    limits("anonymous-read=0/m")
    assert client.get("/items/").status_code == 429
    for path in ("/livez", "/readyz?verbose", "/metrics"):
        assert "RateLimit" not in client.get(path)
    answer = client.get("/static/site.css")
    answer.close()
    assert (answer.status_code, "RateLimit" in answer) == (200, False)


def test_request_that_comes_again_after_a_wait_counts_once(limits):
    limits("anonymous-heavy=5/m")
    request = RequestFactory().get("/api/v1/heavy_computation")
    request.META["asgi.scope"] = {}
    answers = [middleware()(request) for _ in range(3)]
    assert [left(answer)[1] for answer in answers] == [4, 4, 4]


# --- windows


@given(start=st.floats(1.7e9, 2e9), address=st.ip_addresses(v=4))
def test_retry_after_is_the_end_of_the_window(start, address):
    """Whatever the time, and wherever the window of that address starts."""
    policy, requests = Policy("p", 1, 60), RequestFactory()
    caches["rates"].clear()
    now = start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "time", SimpleNamespace(time=lambda: now))
        first = get_status(requests.get("/"), policy, str(address))
        assert 1 <= first.reset_s <= 60
        now = int(start) + first.reset_s - 0.5
        assert get_status(requests.get("/"), policy, str(address)).is_exceeded
        now = int(start) + first.reset_s
        assert not get_status(requests.get("/"), policy, str(address)).is_exceeded


# --- without Redis


def in_redis(server: Any) -> Any:
    return override_settings(CACHES=as_started.caches(server.url()))


def test_each_process_limits_during_an_outage_of_redis_and_says_so(redis_own, limits):
    limits("anonymous-read=5/m")
    limited, requests = middleware(), RequestFactory()

    def is_counted_together() -> bool:
        return "scope" not in limited(requests.get(ITEM))["RateLimit-Policy"]

    with in_redis(redis_own):
        wait_for(is_counted_together)
        caches["rates"].memory.clear()  # Redis may have been too slow for some
        redis_own.pause()
        answers = [limited(requests.get(ITEM)) for _ in range(50)]
        assert caches["rates"].is_degraded
        redis_own.resume()
        recover(caches["rates"])
        wait_for(is_counted_together)
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 45
    # Two failures are not yet an outage.
    policies = {answer["RateLimit-Policy"] for answer in answers[3:]}
    assert policies == {'"anonymous-read";q=5;w=60;scope="process"'}


# --- what may never happen


def test_failure_to_count_admits_the_request(monkeypatch, caplog):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(ratelimit, "get_usage", fail)
    limited, requests = middleware(), RequestFactory()
    answers = [limited(requests.get(ITEM)) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert caplog.messages == ["A request could not be counted."]
    limited.next_log_at -= ratelimit.LOG_FAILURE_EVERY_S
    limited(requests.get(ITEM))
    assert len(caplog.messages) == 2
    assert "RateLimit" not in answers[0]


def test_clients_without_an_address_are_not_limited(limits, caplog):
    limits("anonymous-read=1/m")
    limited, requests = middleware(), RequestFactory()
    for _ in range(3):
        assert limited(requests.get(ITEM, REMOTE_ADDR="")).status_code == 200
    assert "no address" in caplog.text


def test_without_the_database_session_counts_for_its_address(limits):
    class Session:
        def get(self, key: str) -> None:
            raise OperationalError("the database is down")

    request = RequestFactory().get("/items/")
    request.COOKIES["sessionid"] = "x"
    request.session = Session()
    assert left(middleware()(request))[0] == "anonymous-read"


@pytest.mark.django_db
def test_rate_limits_can_be_switched_off(client, limits):
    limits("off")
    assert "RateLimit" not in client.get("/items/")
    with pytest.raises(MiddlewareNotUsed):  # then Django leaves it out
        middleware()


@pytest.mark.parametrize(
    "text",
    ["write", "write=", "write=1", "write=x/m", "nothing=1/m", "write=1/m;", "on"],
)
def test_malformed_setting_is_an_error(text):
    with pytest.raises(ImproperlyConfigured, match="RATE_LIMITS"):
        override_policies(site_settings.RATE_LIMITS, text)


def test_setting_changes_only_the_policies_it_names():
    table = override_policies(
        site_settings.RATE_LIMITS, " write=5/h, anonymous-read=600/m "
    )
    assert table["write"] == ("write", "authenticated", 5, 3600)
    assert table["anonymous-read"][2:] == (600, 60)
    assert table["read"] == site_settings.RATE_LIMITS["read"]
