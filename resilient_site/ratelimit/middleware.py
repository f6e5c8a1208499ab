"""The middleware that answers 429 to who asks too often, and tells all how they stand.

The policies are in settings.RATE_LIMITS; django-ratelimit counts, in fixed windows.
Every answer names its policy and what is left of it (draft-ietf-httpapi-ratelimit-
headers-10). What fails in here lets the request through.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.core.cache import caches
from django.core.exceptions import MiddlewareNotUsed
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django_ratelimit.core import get_usage
from rest_framework.authentication import get_authorization_header
from rest_framework.permissions import SAFE_METHODS

from resilient_site.accounts.verified_tokens import (
    parse_token,
    token_digest,
    verified_tokens,
)
from resilient_site.errors import TooManyRequests, is_rest, respond
from resilient_site.observability.metrics import counts
from resilient_site.ratelimit.client_address import client_address
from resilient_site.ratelimit.policies import (
    ANONYMOUS,
    SIGNED_IN,
    UNPROVEN,
    Policies,
    Policy,
)

logger = logging.getLogger(__name__)

type GetResponse = Callable[[HttpRequest], HttpResponse]

# Who watches the site must not be turned away. Static files do not get here, nor do
# strangers who look at the status page.
NEVER_LIMITED = frozenset({"/livez", "/readyz", "/metrics"})
SIGN_IN = "sign-in"
# Method and path, without a slash at the end, of all but plain reads and writes.
ROUTES = [
    (
        SIGN_IN,
        re.compile(f"POST /(account/sign-in|{re.escape(settings.ADMIN_PATH)}login)"),
    ),
    ("tokens", re.compile("POST /account/tokens(/.*)?")),
    ("export", re.compile("GET /api/v1/items/export")),
    ("heavy", re.compile(r"\w+ /api/v1/heavy_computation|POST /api/v1/jobs")),
    ("heavy", re.compile("POST /jobs/(new/[^/]+|[^/]+/again)")),
]
LOG_EVERY_S = 60
STANDING_KEY = "resilient_site.standing"


class RateLimited(TooManyRequests):
    code = "rate_limited"
    type = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@dataclass(frozen=True)
class Standing:
    """How a client stands with the policy that holds for his request."""

    policy: Policy
    count: int
    reset_s: int
    is_local: bool

    @property
    def is_over(self) -> bool:
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

    def refusal(self) -> RateLimited:
        return RateLimited(
            retry_after_s=self.reset_s,
            members={"violated-policies": [self.policy.name]},
        )


class RateLimitMiddleware:
    """Runs where the session is known; a token is known by its hash alone."""

    def __init__(self, get_response: GetResponse) -> None:
        if not settings.RATE_LIMITS:
            raise MiddlewareNotUsed
        self.get_response = get_response
        self.policies = Policies(settings.RATE_LIMITS)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        standing = self._standing(request)
        if standing is None:
            return self.get_response(request)
        if standing.is_over:
            counts.count("rate_limited", standing.policy.name)
            response = respond(request, standing.refusal())
        else:
            response = self.get_response(request)
        for name, value in standing.headers().items():
            response[name] = value
        return response

    def _standing(self, request: HttpRequest) -> Standing | None:
        """Count the request, once; None if it is not limited."""
        if request.path_info.rstrip("/") in NEVER_LIMITED:
            return None
        # After a Wait the same request comes again.
        scope = request.META.get("asgi.scope", {})
        try:
            if STANDING_KEY not in scope:
                scope[STANDING_KEY] = self._count(request)
        except Exception:  # noqa: BLE001 - whatever it is, it is not the client's fault
            complain("A request could not be counted.", exc_info=True)
            return None
        standing: Standing | None = scope[STANDING_KEY]
        return standing

    def _count(self, request: HttpRequest) -> Standing | None:
        route, general = _routes(request)
        # Whoever is known may yet try to be somebody else.
        identify = _by_address if route == SIGN_IN else _identify
        who, identity = identify(request)
        if identity is None:
            complain("Clients have no address, as behind a Unix socket: no limits.")
            return None
        policy = self.policies.find(route, general, who)
        return _use(request, policy, identity) if policy else None


def _use(request: HttpRequest, policy: Policy, identity: str) -> Standing | None:
    usage = get_usage(
        request,
        group=policy.name,
        key=lambda group, request: identity,
        rate=(policy.quota, policy.window_s),
        increment=True,
    )
    if usage is None:  # it could not be counted
        return None
    # The window ends with the second that `time_left` counts to.
    reset_s = max(1, usage["time_left"] + 1)
    counters: Any = caches["rates"]
    return Standing(policy, usage["count"], reset_s, counters.is_degraded)


def _routes(request: HttpRequest) -> tuple[str, str]:
    """Return what is asked for, and what that is in general."""
    general = "read" if request.method in SAFE_METHODS else "write"
    asked = f"{request.method} {request.path_info.rstrip('/')}"
    for route, pattern in ROUTES:
        if pattern.fullmatch(asked):
            return route, general
    return general, general


def _identify(request: HttpRequest) -> tuple[str, str | None]:
    """Return what kind of client it is, and which: None if that cannot be told."""
    token = _sent_token(request) if is_rest(request) else None
    if token is not None:
        digest = token_digest(token)
        if verified_tokens().is_recognized(digest):
            return SIGNED_IN, digest
        return _by_address(request, UNPROVEN)
    if user_id := session_user(request):
        return SIGNED_IN, f"user {user_id}"
    return _by_address(request)


def _sent_token(request: HttpRequest) -> bytes | None:
    return parse_token(get_authorization_header(request))  # type: ignore[arg-type]


def _by_address(request: HttpRequest, who: str = ANONYMOUS) -> tuple[str, str | None]:
    # What is no address is what a trusted proxy says in place of one.
    return who, client_address(request) or request.META.get("REMOTE_ADDR") or None


def session_user(request: HttpRequest) -> str | None:
    # Else the session would be touched, and every answer vary by cookie.
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return None
    try:
        user_id: str | None = request.session.get(SESSION_KEY)
    except (DatabaseError, InterfaceError):
        return None
    return user_id


class Complaints:
    """Logs now and then what might have to be said for every request."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def __call__(self, message: str, *, exc_info: bool = False) -> None:
        if monotonic() < self._next_at:
            return
        self._next_at = monotonic() + LOG_EVERY_S
        logger.warning(message, exc_info=exc_info)


complain = Complaints()
