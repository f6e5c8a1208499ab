"""The status page as everybody may see it: made without a database, user or session."""

import logging
from functools import lru_cache
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from resilient_site.health import health_json
from resilient_site.health.components import Status
from resilient_site.health.monitor import Report

logger = logging.getLogger(__name__)

HEADLINES = {
    Status.PASS: "Everything works.",
    Status.WARN: "Not everything works as it should.",
    Status.FAIL: "The site can answer nobody at the moment.",
}


def public(
    request: HttpRequest, report: Report, why_not_ready: str = ""
) -> HttpResponse:
    if wants_json(request):
        return as_json(health_json.health(report, why_not_ready))
    response = HttpResponse(rendered(report, why_not_ready))
    response["Cache-Control"] = "no-store"
    return response


def context(report: Report, why_not_ready: str = "") -> dict[str, Any]:
    overall = health_json.overall(report, why_not_ready)
    return {
        "report": report,
        "overall": overall,
        "headline": HEADLINES[overall],
        "why_not_ready": why_not_ready,
    }


def as_json(content: dict[str, Any]) -> HttpResponse:
    headers = {"Cache-Control": "no-store"}
    return HttpResponse(orjson.dumps(content), "application/json", headers=headers)


def wants_json(request: HttpRequest) -> bool:
    asked = request.GET.get("format")
    accepted = request.get_preferred_type(["text/html", "application/json"])
    return asked == "json" or accepted == "application/json"


def warm_up() -> None:
    """Make the page once: the first time takes a tenth of a second."""
    try:
        rendered(Report(()))
    except Exception:
        logger.exception("The status page cannot be made.")


# The figures, which change all the time, are not in it: it is made anew when something
# happens, however often it is asked for.
@lru_cache(maxsize=2)
def rendered(report: Report, why_not_ready: str = "") -> bytes:
    # Without the request: the page must not ask who reads it.
    return render_to_string("status.html", context(report, why_not_ready)).encode()
