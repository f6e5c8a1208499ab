"""Objectives of the site, which users edit, and their evaluation."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.running import ROOT

if TYPE_CHECKING:
    from tests.drill.history import Findings
    from tests.drill.runner import Result

FILE = ROOT / "deploy" / "objectives.toml"


@dataclass
class Verdict:
    misses: list[str] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        return not self.misses


class Objectives:
    """Objectives of every fault, with overrides, and of the final findings."""

    def __init__(self, path: Path = FILE) -> None:
        """Raise ValueError for an unknown objective."""
        table = tomllib.loads(path.read_text())
        self.every: dict[str, float] = table.pop("every")
        self.faults: dict[str, dict[str, float]] = table.pop("fault", {})
        self.end: dict[str, int] = table.pop("end")
        tables = [self.every, *self.faults.values()]
        unknown = {name for one in tables for name in one} - KNOWN.keys()
        if table or unknown:
            raise ValueError(
                f"{path}: unknown objectives {sorted({*table, *unknown})}."
            )

    def of(self, fault: str) -> dict[str, float]:
        return self.every | self.faults.get(fault, {})

    def evaluate(self, result: "Result") -> Verdict:
        misses = []
        for name, limit in self.of(result.name).items():
            label, is_at_least, unit, value_of = KNOWN[name]
            value = value_of(result)
            if value is None:
                if name == "recovered_s":
                    misses.append("It did not recover.")
                continue
            if value < limit if is_at_least else value > limit:
                bound = "at least" if is_at_least else "at most"
                misses.append(
                    f"{label}: {value:.4g}{unit}, not {bound} {limit:g}{unit}"
                )
        return Verdict(misses)

    def evaluate_end(self, found: "Findings") -> Verdict:
        return Verdict(
            [
                f"{name.replace('_', ' ')}: {number}, not {self.end.get(name, 0)}"
                for name, number in found.counts().items()
                if number > self.end.get(name, 0)
            ]
        )


class Known(NamedTuple):
    """A quantity that an objective may limit."""

    label: str
    is_at_least: bool
    unit: str
    value_of: Callable[["Result"], float | None]


KNOWN = {
    "reads_percent": Known(
        "reads answered", True, " %", lambda r: r.during.reads_answered * 100
    ),
    "writes_percent": Known(
        "writes answered", True, " %", lambda r: r.during.writes_answered * 100
    ),
    "read_p99_ms": Known("p99 of reads", False, " ms", lambda r: r.during.read_p99_ms),
    "write_p99_ms": Known(
        "p99 of writes", False, " ms", lambda r: r.during.write_p99_ms
    ),
    "refused_within_s": Known(
        "slowest rejection", False, " s", lambda r: r.during.slowest_rejection_s
    ),
    "stale_percent": Known(
        "stale responses", False, " %",
        lambda r: 100 * r.during.stale / max(r.during.reads, 1),
    ),
    "noticed_s": Known("detected after", False, " s", lambda r: r.noticed_s),
    "recovered_s": Known("recovered after", False, " s", lambda r: r.recovered_s),
    "goodput": Known("goodput", True, "", lambda r: r.measured.get("goodput")),
}  # fmt: skip
