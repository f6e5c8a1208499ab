"""The status page of those who are signed in, and what staff can do there."""

import logging
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from resilient_site.errors import Invalid, NotFound
from resilient_site.health import health_json, page, process
from resilient_site.health.monitor import watch
from resilient_site.resilience.breaker_overrides import holds
from resilient_site.resilience.breakers import State, all_breakers

logger = logging.getLogger(__name__)

HELD = {"open": State.OPEN, "closed": State.CLOSED, "free": None}


@require_safe
def status(request: HttpRequest) -> HttpResponse:
    try:
        if request.user.is_authenticated:
            return _own(request)
    except (DatabaseError, InterfaceError):
        pass  # nobody can tell who it is: what everybody may see is there all the same
    return page.public(request, watch.report())


def _own(request: HttpRequest) -> HttpResponse:
    report = watch.report()
    if not request.user.is_staff:
        if page.wants_json(request):
            return page.as_json(health_json.health(report))
        return _render(request, page.context(report))
    if page.wants_json(request):
        return page.as_json(health_json.with_details(report) | _details())
    return _render(request, page.context(report) | {"staff": _details()})


def _render(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    response = render(request, "status.html", context)
    response["Cache-Control"] = "no-store"
    return response


def _details() -> dict[str, Any]:
    held = holds.current()
    return {
        "breakers": [
            {
                "now": breaker.snapshot(),
                "state": breaker.state,
                "hold": held.get(breaker.name),
            }
            for breaker in all_breakers()
            if breaker.name != "broker"
            or settings.COMPUTE_BACKEND == "celery"
            or settings.EVENTS_URL
        ],
        "process": process.figures(),
    }


@login_required
@require_POST
def hold(request: HttpRequest, name: str) -> HttpResponse:
    """Hold a breaker open or closed, or let it go."""
    if not request.user.is_staff:
        raise PermissionDenied
    if name not in {breaker.name for breaker in all_breakers()}:
        raise NotFound
    asked = request.POST.get("state", "")
    if asked not in HELD:
        raise Invalid("A breaker is held open or closed, or let go (free).")
    state, who = HELD[asked], request.user.get_username()
    holds.set(name, state, who)
    done = f"held {state}" if state else "let go"
    logger.warning("%s: breaker %s by %s.", name, done, who)
    messages.success(request, f"The breaker “{name}” is {done}.")
    return redirect("status")
