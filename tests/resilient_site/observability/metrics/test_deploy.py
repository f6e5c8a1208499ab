"""The alerts and the dashboard ask for metrics and labels that the site has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from resilient_site.observability.metrics.families import FAMILIES, PREFIX, Kind
from tests.running import ROOT

pytestmark = pytest.mark.once

ALERTS = ROOT / "deploy" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "dashboard.json"
# Of Prometheus itself.
ITS_OWN = {"up"}
OF_A_SCRAPE = {"instance", "job"}
FUNCTIONS = {"sum", "rate", "increase", "histogram_quantile", "min", "max", "by"}
SUFFIXES = {Kind.COUNTER: ["_total"], Kind.HISTOGRAM: ["_bucket", "_sum", "_count"]}
SELECTOR = re.compile(r"([a-z_]+)(?:\{([^}]*)\})?")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + asked


def known() -> dict[str, set[str]]:
    """Every series of /metrics, with its labels."""
    return {
        f"{PREFIX}{name}{suffix}": {*family.labels, *OF_A_SCRAPE}
        | ({"le"} if suffix == "_bucket" else set())
        for name, family in FAMILIES.items()
        for suffix in SUFFIXES.get(family.kind, [""])
    }


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each series that is asked for, with the labels it is asked by."""
    grouped = set()
    for names in re.findall(r"\bby \(([^)]*)\)", expression):
        grouped |= {name.strip() for name in names.split(",")}
    rest = re.sub(r"\bby \([^)]*\)|\[\w+\]", "", expression)
    for name, matchers in SELECTOR.findall(rest):
        if name not in FUNCTIONS:
            asked = set(re.findall(r'([a-z_]+)(?:=~|!~|!=|=)"', matchers or ""))
            yield name, asked | grouped


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_there(expression):
    found = list(selectors(expression))
    assert found
    for name, labels in found:
        if name not in ITS_OWN:
            assert name in known()
            assert labels <= known()[name]
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


def test_a_metric_that_is_not_there_would_be_found():
    asked = 'sum by (route) (rate(resilient_site_requests{no="1"}[5m])) > 0'
    ((name, labels),) = selectors(asked)
    assert name not in known()
    assert labels == {"route", "no"}


def test_every_metric_that_counts_is_on_the_dashboard():
    shown = {name for e in expressions() for name, _ in selectors(e)}
    missing = {
        name
        for name, family in FAMILIES.items()
        if not any(
            f"{PREFIX}{name}{suffix}" in shown
            for suffix in SUFFIXES.get(family.kind, [""])
        )
    }
    assert missing == {
        "admission_admitted", "redis_subscribed", "largest_resident_bytes",
        "pool_processes_started",
    }  # fmt: skip


def test_every_alert_says_what_to_do():
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}


def test_prometheus_takes_the_rules():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine")
    done = subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True)
    assert done.returncode == 0, done.stderr
