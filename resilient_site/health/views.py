"""Probes, the status page, and the circuit breaker overrides of operators."""

import gc
import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import (
    login_not_required,
    login_required,
    permission_required,
)
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_POST, require_safe

from resilient_site.accounts.verified_tokens import MAX_ENTRIES, verified_tokens
from resilient_site.cache.memory import memory_usage
from resilient_site.edge.policy import UNLIMITED, policy
from resilient_site.errors import Invalid, NotFound
from resilient_site.health import health_json
from resilient_site.health.components import Status
from resilient_site.health.monitor import Report, health_monitor
from resilient_site.observability.memory_usage import private_bytes, resident_bytes
from resilient_site.resilience import breakers
from resilient_site.resilience.breaker_overrides import Override, breaker_overrides
from resilient_site.resilience.breakers import State, all_breakers

logger = logging.getLogger(__name__)

PLAIN = "text/plain; charset=utf-8"
no_store = cache_control(no_store=True)
HEADLINES = {
    Status.PASS: "Everything works.",
    Status.WARN: "Some things do not work as they should.",
    Status.FAIL: "The site cannot answer requests at the moment.",
}
BREAKER_FIGURES = (
    "name", "failures", "last_error", "since", "opens", "retry_after_s",
)  # fmt: skip
VIEW_DETAILS = "resilient_site.view_status_details"
OVERRIDE = "resilient_site.override_breakers"
# How long an override may hold.
DURATIONS_MIN = (5, 15, 60)
STATES = {"open": State.OPEN, "closed": State.CLOSED, "free": None}


@policy(read_rate=UNLIMITED)
@login_not_required
@require_safe
@no_store
def live(request: HttpRequest) -> HttpResponse:
    """Liveness probe: the process answers."""
    return HttpResponse("ok\n", PLAIN)


@policy(read_rate=UNLIMITED)
@login_not_required
@require_safe
@no_store
def ready(request: HttpRequest) -> HttpResponse:
    """Readiness probe: the process can answer requests, from a cache if need be."""
    report = health_monitor.report()
    why_not = health_monitor.why_not_ready(report)
    status = 503 if why_not else 200
    if "verbose" in request.GET:
        body = orjson.dumps(health_json.health(report, why_not))
        return HttpResponse(body, health_json.TYPE, status)
    degraded = ", ".join(component.name for component in report.not_passing)
    text = why_not or (f"ok, but degraded: {degraded}" if degraded else "ok")
    return HttpResponse(f"{text}\n", PLAIN, status)


@require_safe
@no_store
def public_status(request: HttpRequest) -> HttpResponse:
    """Status page without a user or a database."""
    report = health_monitor.report()
    why_not = health_monitor.why_not_ready(report)
    if _wants_json(request):
        return _json(health_json.health(report, why_not))
    return HttpResponse(render_page(report, why_not))


# Figures, which change all the time, are not in it: it is rendered again only when a
# status changes.
@lru_cache(maxsize=2)
def render_page(report: Report, why_not_ready: str = "") -> bytes:
    # Without the request, whose user would need the database.
    return render_to_string("status.html", _context(report, why_not_ready)).encode()


def _context(report: Report, why_not_ready: str = "") -> dict[str, Any]:
    overall = health_json.overall(report, why_not_ready)
    return {
        "report": report,
        "overall": overall,
        "headline": HEADLINES[overall],
        "why_not_ready": why_not_ready,
    }


# Open in a private site, too: it shows no data, and in an outage nobody can sign in.
@login_not_required
@require_safe
@no_store
def status(request: HttpRequest) -> HttpResponse:
    try:
        if request.user.is_authenticated:
            return _for_user(request)
    except (DatabaseError, InterfaceError):
        pass  # the user cannot be looked up: show the public page
    response: HttpResponse = public_status(request)
    return response


def _for_user(request: HttpRequest) -> HttpResponse:
    report = health_monitor.report()
    with_details = request.user.has_perm(VIEW_DETAILS)
    if _wants_json(request):
        document = health_json.health(report, with_details=with_details)
        return _json(document | (_details() if with_details else {}))
    context = _context(report)
    if with_details:
        context |= {"details": _details(), "durations": DURATIONS_MIN}
    return render(request, "status.html", context)


def _wants_json(request: HttpRequest) -> bool:
    accepted = request.get_preferred_type(["text/html", "application/json"])
    return request.GET.get("format") == "json" or accepted == "application/json"


def _json(content: dict[str, Any]) -> HttpResponse:
    return HttpResponse(orjson.dumps(content), "application/json")


def _details() -> dict[str, Any]:
    overrides = breaker_overrides.current()
    return {
        "breakers": [
            {
                "now": {name: getattr(breaker, name) for name in BREAKER_FIGURES},
                "state": breaker.state,
                "override": overrides.get(breaker.name),
            }
            for breaker in all_breakers()
            if breaker.name != "broker"
            or settings.COMPUTE_BACKEND == "celery"
            or settings.EVENTS_URL
        ],
        "process": _describe_process(),
    }


def _describe_process() -> dict[str, str]:
    from resilient_site.edge.cache.store import response_store

    memory, responses = memory_usage(), response_store.memory
    credentials, requests = verified_tokens(), settings.WEB_MAX_REQUESTS
    collections = [f"{stat['collections']:,}" for stat in gc.get_stats()]
    return {
        "Process id": str(os.getpid()),
        "Threads": str(threading.active_count()),
        "Memory": filesizeformat(resident_bytes()),
        "Private memory": filesizeformat(private_bytes()),
        "Frozen objects": f"{gc.get_freeze_count():,}",
        "Garbage collections (young, middle, old)": ", ".join(collections),
        "Recycled after": f"{requests:,} requests" if requests else "never",
        "Cached responses": _fill_level(
            len(responses), responses.bytes, responses.max_bytes
        ),
        "Cache in memory": _fill_level(memory.entries, memory.bytes, memory.max_bytes),
        "Stale responses on disk": _fill_level(
            *response_store.disk_usage(), response_store.max_disk_bytes
        ),
        "Verified credentials": f"{len(credentials):,} of {MAX_ENTRIES:,}",
    }


def _fill_level(entries: int, used: int, most: int) -> str:
    return f"{entries:,} in {filesizeformat(used)} of {filesizeformat(most)}"


@login_required
@require_POST
@permission_required(OVERRIDE, raise_exception=True)
def override_breaker(request: HttpRequest, name: str) -> HttpResponse:
    """Force a circuit breaker open or closed, or remove the override."""
    if name not in {breaker.name for breaker in all_breakers()}:
        raise NotFound
    asked = request.POST.get("state", "")
    if asked not in STATES:
        raise Invalid("The state of an override must be open, closed or free.")
    if name == breakers.database.name and asked == "open":
        raise Invalid("The circuit breaker of the database cannot be forced open here.")
    minutes = request.POST.get("minutes", "")
    if asked != "free" and minutes not in map(str, DURATIONS_MIN):
        raise Invalid("The duration of an override must be 5, 15 or 60 minutes.")
    state, username = STATES[asked], request.user.get_username()
    if state:
        until = datetime.now(UTC) + timedelta(minutes=int(minutes))
        breaker_overrides.set(name, Override(state, until, username))
        done = f"forced {state} for {minutes} minutes"
    else:
        breaker_overrides.set(name, None)
        done = "override removed"
    logger.warning("Circuit breaker %s: %s by %s.", name, done, username)
    messages.success(request, f"Circuit breaker “{name}”: {done}.")
    return redirect("status")
