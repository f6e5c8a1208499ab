"""The status page; the public one is rendered without a database or a session."""

from functools import lru_cache
from typing import Any

from django.template.loader import render_to_string

from resilient_site.health import health_json
from resilient_site.health.components import Status
from resilient_site.health.monitor import Report

HEADLINES = {
    Status.PASS: "Everything works.",
    Status.WARN: "Some things do not work as they should.",
    Status.FAIL: "The site cannot answer requests at the moment.",
}


def context(report: Report, why_not_ready: str = "") -> dict[str, Any]:
    overall = health_json.overall(report, why_not_ready)
    return {
        "report": report,
        "overall": overall,
        "headline": HEADLINES[overall],
        "why_not_ready": why_not_ready,
    }


# Figures, which change all the time, are not in it: it is rendered again only when a
# status changes.
@lru_cache(maxsize=2)
def render_page(report: Report, why_not_ready: str = "") -> bytes:
    # Without the request, whose user would need the database.
    return render_to_string("status.html", context(report, why_not_ready)).encode()
