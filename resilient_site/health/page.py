"""The public status page: render_page without a database, user or session."""

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
    Status.WARN: "Some things do not work as they should.",
    Status.FAIL: "The site cannot answer requests at the moment.",
}


def public(
    request: HttpRequest, report: Report, why_not_ready: str = ""
) -> HttpResponse:
    if wants_json(request):
        return json_response(health_json.health(report, why_not_ready))
    response = HttpResponse(render_page(report, why_not_ready))
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


def json_response(content: dict[str, Any]) -> HttpResponse:
    headers = {"Cache-Control": "no-store"}
    return HttpResponse(orjson.dumps(content), "application/json", headers=headers)


def wants_json(request: HttpRequest) -> bool:
    asked = request.GET.get("format")
    accepted = request.get_preferred_type(["text/html", "application/json"])
    return asked == "json" or accepted == "application/json"


def warm_up() -> None:
    """Render the page once: the first time takes a tenth of a second."""
    try:
        render_page(Report(()))
    except Exception:
        logger.exception("The status page cannot be rendered.")


# Figures, which change all the time, are not in it: it is rendered again only when a
# status changes.
@lru_cache(maxsize=2)
def render_page(report: Report, why_not_ready: str = "") -> bytes:
    # Without the request, whose user would need the database.
    return render_to_string("status.html", context(report, why_not_ready)).encode()
