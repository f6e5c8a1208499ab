"""Rate limits: middleware that counts requests and answers 429 beyond the quota.

The policies are in settings.RATE_LIMITS; django-ratelimit counts, in fixed windows. The
headers are those of draft-ietf-httpapi-ratelimit-headers-10.

If the shared cache fails, each process counts by itself, and the headers say so. If
counting itself fails, the request is admitted. What is not handled: clients without an
address, as behind a Unix socket, have no limits.
"""

import logging
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.core.cache import caches
from django.core.exceptions import MiddlewareNotUsed
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django_ratelimit.core import get_usage

from resilient_site.accounts.verified_tokens import (
    parse_token,
    token_digest,
    verified_tokens,
)
from resilient_site.edge.policy import READ, SAFE_METHODS, UNLIMITED, WRITE, policy_at
from resilient_site.errors import REST_PATH, TooManyRequests, respond
from resilient_site.observability.metrics import RATE_LIMITED
from resilient_site.ratelimit.addresses import normalize_address
from resilient_site.ratelimit.policies import (
    ANONYMOUS,
    ANY_CLASS,
    AUTHENTICATED,
    UNVERIFIED,
    Policy,
)

logger = logging.getLogger(__name__)

type GetResponse = Callable[[HttpRequest], HttpResponse]

SIGN_IN = "sign-in"
UNPROVEN = "unproven-token"
LOG_FAILURE_EVERY_S = 60
STATUS_KEY = "resilient_site.rate_limit_status"


class RateLimited(TooManyRequests):
    code = "rate_limited"
    type = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@dataclass(frozen=True)
class RateLimitStatus:
    """What a client has used of the quota of one policy."""

    policy: Policy
    count: int
    reset_s: int
    is_local: bool

    @property
    def is_exceeded(self) -> bool:
        return self.count > self.policy.quota

    def headers(self) -> dict[str, str]:
        policy = self.policy
        left = max(0, policy.quota - self.count)
        scope = ';scope="process"' if self.is_local else ""
        return {
            "RateLimit-Policy": (
                f'"{policy.name}";q={policy.quota};w={policy.window_s}{scope}'
            ),
            "RateLimit": f'"{policy.name}";r={left};t={self.reset_s}',
        }

    def error(self) -> RateLimited:
        """Return the error for a request beyond the quota, which it counts."""
        name = self.policy.name
        RATE_LIMITED.labels(name).inc()
        return RateLimited(
            retry_after_s=self.reset_s,
            headers=self.headers(),
            members={"violated-policies": [name]},
        )


class RateLimitMiddleware:
    """Runs behind the sessions, and before authentication: see `_identify`."""

    def __init__(self, get_response: GetResponse) -> None:
        if not settings.RATE_LIMITS:
            raise MiddlewareNotUsed
        self.get_response = get_response
        self.next_log_at = 0.0
        self.policies = policies()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        status = self._count_once(request)
        if status is None:
            return self.get_response(request)
        if status.is_exceeded:
            response = respond(request, status.error())
        else:
            response = self.get_response(request)
        for name, value in status.headers().items():
            response[name] = value
        return response

    def _count_once(self, request: HttpRequest) -> RateLimitStatus | None:
        """Return the status after this request; None if it is not limited.

        The internal GET that ends a wait has the scope of its request: both count once.
        """
        scope = request.META.get("asgi.scope", {})
        try:
            if STATUS_KEY not in scope:
                scope[STATUS_KEY] = self._count(request)
        except Exception:  # whatever it is, the client is not the cause
            if monotonic() >= self.next_log_at:
                self.next_log_at = monotonic() + LOG_FAILURE_EVERY_S
                logger.exception("A request could not be counted.")
            return None
        status: RateLimitStatus | None = scope[STATUS_KEY]
        return status

    def _count(self, request: HttpRequest) -> RateLimitStatus | None:
        stated = policy_at(request.path_info, request.method or "")
        rate_class, general = stated.write_rate, WRITE
        if request.method in SAFE_METHODS:
            rate_class, general = stated.read_rate, READ
        if rate_class == UNLIMITED:
            return None
        # An authenticated client may still try to guess another user's password.
        identify = _identify_by_address if rate_class == SIGN_IN else _identify
        client, key = identify(request)
        if key is None:
            warn_of_missing_addresses()
            return None
        for candidate in (rate_class, general, ANY_CLASS):  # the most specific first
            if policy := self.policies.get((candidate, client)):
                return get_status(request, policy, key)
        return None


def policies() -> dict[tuple[str, str], Policy]:
    """Return the policies by class of requests and kind of client."""
    limits = settings.RATE_LIMITS.items()
    return {
        (rate_class, client): Policy(name, quota, window_s)
        for name, (rate_class, client, quota, window_s) in limits
    }


def get_status(
    request: HttpRequest, policy: Policy, key: str, *, increment: bool = True
) -> RateLimitStatus | None:
    """Count one request of the client `key`; return None if that is not possible."""
    usage = get_usage(
        request,
        group=policy.name,
        key=lambda group, request: key,
        rate=(policy.quota, policy.window_s),
        increment=increment,
    )
    if usage is None:
        return None
    # The window ends with the second that `time_left` counts to.
    reset_s = max(1, usage["time_left"] + 1)
    counters: Any = caches["rates"]
    return RateLimitStatus(policy, usage["count"], reset_s, counters.is_degraded)


def count_by_name(
    request: HttpRequest, name: str, key: str, *, increment: bool = True
) -> RateLimitStatus | None:
    """Count one request of `key` under the policy `name`; None if limits are off."""
    if name not in settings.RATE_LIMITS:
        return None
    _, _, quota, window_s = settings.RATE_LIMITS[name]
    return get_status(request, Policy(name, quota, window_s), key, increment=increment)


def may_read(scope: MutableMapping[str, Any], client: str) -> bool:
    """Count a plain read of an EdgeRequest's client; return whether it may be made.

    It is counted in its scope: if Django has to answer it, that counts it no more.
    """
    kind = AUTHENTICATED if client.startswith("user ") else ANONYMOUS
    status = None
    with suppress(Exception):  # what cannot be counted is let through
        known = policies()
        policy = known.get((READ, kind)) or known.get((ANY_CLASS, kind))
        if policy and client:
            status = get_status(HttpRequest(), policy, client)
            scope[STATUS_KEY] = status
    return status is None or not status.is_exceeded


def count_unproven(address: str) -> None:
    """Count a credential that was not verified yet; raise RateLimited if too many."""
    status = None
    with suppress(Exception):  # what cannot be counted is let through
        status = count_by_name(HttpRequest(), UNPROVEN, address) if address else None
    if status and status.is_exceeded:
        raise status.error()


def _identify(request: HttpRequest) -> tuple[str, str | None]:
    """Return the kind of client, and what its requests are counted under.

    By user, of a session or of a token that was verified before, else by address: a
    client that makes up a new token for each request would never meet a limit.
    """
    token = None
    authorization = request.META.get("HTTP_AUTHORIZATION")
    if authorization and request.path.startswith(REST_PATH):  # pages take no tokens
        token = parse_token(authorization.encode())
    if token is not None:
        user_id = verified_tokens().recognized_user_id(token_digest(token))
        if user_id is not None:
            return AUTHENTICATED, f"user {user_id}"
        return _identify_by_address(request, UNVERIFIED)
    if user_id := session_user_id(request):
        return AUTHENTICATED, f"user {user_id}"
    return _identify_by_address(request)


def _identify_by_address(
    request: HttpRequest, client: str = ANONYMOUS
) -> tuple[str, str | None]:
    # A trusted proxy may give an identifier that is not an address.
    return client, client_address(request) or request.META.get("REMOTE_ADDR") or None


def client_address(request: HttpRequest) -> str | None:
    """Return the client's IPv4 address or IPv6 network; None over a Unix socket.

    Uvicorn has put it into REMOTE_ADDR: the rightmost address in X-Forwarded-For that
    is no proxy of FORWARDED_ALLOW_IPS. A client cannot choose it by any header.
    """
    return normalize_address(request.META.get("REMOTE_ADDR") or "")


def session_user_id(request: HttpRequest) -> str | None:
    # Without this the session would be accessed, and each response vary by cookie.
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return None
    try:
        user_id: str | None = request.session.get(SESSION_KEY)
    except (DatabaseError, InterfaceError):
        return None
    return user_id


@cache  # once
def warn_of_missing_addresses() -> None:
    logger.warning("Clients have no address, as behind a Unix socket: no rate limits.")
