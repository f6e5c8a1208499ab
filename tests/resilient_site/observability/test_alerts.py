"""The alerts and the dashboard query metrics and labels that the site has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from compute import metrics as job_metrics
from resilient_site.observability import metrics
from tests.running import ROOT

pytestmark = pytest.mark.once

ALERTS = ROOT / "deploy" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "dashboard.json"
OF_OTHERS = {"up", "stamina_retries_total"}
SCRAPE_LABELS = {"instance", "job"}
FUNCTIONS = {"sum", "rate", "increase", "histogram_quantile", "min", "max", "by"}
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
SELECTOR = re.compile(r"([a-z_]+)(?:\{([^}]*)\})?")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + asked


def declared() -> dict[str, tuple[set[str], set[str]]]:
    """Return the series and the labels of every metric, by its name."""
    values = [*vars(metrics).values(), *vars(job_metrics).values()]
    return {
        metric._name: (
            {f"{metric._name}{suffix}" for suffix in SUFFIXES.get(metric._type, [""])},
            {*metric._labelnames, *SCRAPE_LABELS},
        )
        for metric in [*values, *job_metrics.JOBS.values()]
        if isinstance(metric, MetricWrapperBase)
    }


def known() -> dict[str, set[str]]:
    """Return every series of /metrics, with its labels."""
    return {
        name: labels | ({"le"} if name.endswith("_bucket") else set())
        for series, labels in declared().values()
        for name in series
    }


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each series that is queried, with the labels it is selected by."""
    grouped = set()
    for names in re.findall(r"\bby \(([^)]*)\)", expression):
        grouped |= {name.strip() for name in names.split(",")}
    rest = re.sub(r"\bby \([^)]*\)|\[\w+\]", "", expression)
    for name, matchers in SELECTOR.findall(rest):
        if name not in FUNCTIONS:
            asked = set(re.findall(r'([a-z_]+)(?:=~|!~|!=|=)"', matchers or ""))
            yield name, asked | grouped


@pytest.mark.parametrize("expression", expressions())
def test_expression_queries_known_series(expression):
    found = list(selectors(expression))
    assert found
    for name, labels in found:
        if name not in OF_OTHERS:
            assert name in known()
            assert labels <= known()[name]
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


def test_dashboard_and_alerts_use_every_metric():
    shown = {name for e in expressions() for name, _ in selectors(e)}
    unused = {name for name, (series, _) in declared().items() if not series & shown}
    assert {name.removeprefix("resilient_site_") for name in unused} == {
        "admission_admitted", "redis_subscribed", "largest_resident_bytes",
        "pool_processes_started",
    }  # fmt: skip


def test_alert_has_severity_summary_and_action():
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}


def test_prometheus_accepts_the_rules():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine")
    done = subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True)
    assert done.returncode == 0, done.stderr
