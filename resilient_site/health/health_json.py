"""The health as programs read it: draft-inadarei-api-health-check-06."""

from typing import Any

from resilient_site.health.components import Status
from resilient_site.health.monitor import Report, Standing

TYPE = b"application/health+json"


def health(report: Report, why_not_ready: str = "") -> dict[str, Any]:
    """Return the document; what only staff may know is not in it."""
    members: dict[str, Any] = {
        "status": overall(report, why_not_ready),
        "description": "Resilient Site",
        "checks": {s.name: [_check(s)] for s in report.standings},
    }
    if why_not_ready:
        members["output"] = why_not_ready
    return members


def overall(report: Report, why_not_ready: str) -> Status:
    if why_not_ready:
        return Status.FAIL
    return Status.WARN if report.troubled else Status.PASS


def _check(standing: Standing) -> dict[str, Any]:
    # Of a check that does not return the draft knows nothing.
    unknown = standing.status is Status.UNKNOWN
    members = {
        "componentType": standing.kind,
        "status": Status.WARN if unknown else standing.status,
        "since": standing.since.isoformat(timespec="seconds"),
    }
    if standing.status is not Status.PASS:
        members["output"] = standing.meaning
    return members


def with_details(report: Report, why_not_ready: str = "") -> dict[str, Any]:
    """Return the document for staff: with figures and errors."""
    members = health(report, why_not_ready)
    for standing in report.standings:
        (check,) = members["checks"][standing.name]
        check["figures"] = dict(standing.figures)
        if standing.error:
            check["error"] = standing.error
    return members
