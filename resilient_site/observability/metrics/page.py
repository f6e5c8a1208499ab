"""The metrics as Prometheus reads them."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from resilient_site.observability.metrics.counts import BOUNDS
from resilient_site.observability.metrics.families import FAMILIES, PREFIX, Family, Kind
from resilient_site.observability.metrics.sharing import Totals, totals

TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def render(role: str) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(totals(role)))
    return generate_latest(registry)


class Figures(Collector):
    def __init__(self, totals: Totals) -> None:
        self.by_name: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
        for (name, labels), value in sorted(totals.items()):
            self.by_name.setdefault(name, []).append((labels, value))

    def collect(self) -> Iterator[Metric]:
        for name, family in FAMILIES.items():
            made = _made(PREFIX + name, family)
            for labels, value in self.by_name.get(name, ()):
                made.add_metric(labels, **_as_arguments(value))
            yield made


def _made(name: str, family: Family) -> Any:
    kinds: dict[Kind, Any] = {
        Kind.COUNTER: CounterMetricFamily,
        Kind.HISTOGRAM: HistogramMetricFamily,
    }
    make = kinds.get(family.kind, GaugeMetricFamily)
    return make(name, family.text, labels=family.labels)


def _as_arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, list):
        return {"value": value}
    *numbers, total = value
    bounds = [*map(floatToGoString, BOUNDS), "+Inf"]
    buckets = zip(bounds, accumulate(numbers), strict=True)
    return {"buckets": [list(pair) for pair in buckets], "sum_value": total}
