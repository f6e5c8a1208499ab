"""Health in JSON: draft-inadarei-api-health-check-06."""

from typing import Any

from resilient_site.health.components import Status
from resilient_site.health.monitor import ComponentStatus, Report

TYPE = "application/health+json"


def health(
    report: Report, why_not_ready: str = "", *, with_details: bool = False
) -> dict[str, Any]:
    """Return the document; errors and figures are for operators only."""
    members: dict[str, Any] = {
        "status": overall(report, why_not_ready),
        "description": "Resilient Site",
        "checks": {c.name: [_check(c, with_details)] for c in report.components},
    }
    if why_not_ready:
        members["output"] = why_not_ready
    return members


def overall(report: Report, why_not_ready: str) -> Status:
    if why_not_ready:
        return Status.FAIL
    return Status.WARN if report.not_passing else Status.PASS


def _check(component: ComponentStatus, with_details: bool) -> dict[str, Any]:
    # The draft has no status for a check that does not return.
    unknown = component.status is Status.UNKNOWN
    members: dict[str, Any] = {
        "componentType": component.kind,
        "status": Status.WARN if unknown else component.status,
        "since": component.since.isoformat(timespec="seconds"),
    }
    if component.status is not Status.PASS:
        members["output"] = component.meaning
    if with_details:
        members["figures"] = dict(component.figures)
        if component.error:
            members["error"] = component.error
    return members
