"""Objectives of the site, which users edit, and their evaluation."""

import tomllib
from pathlib import Path

from tests.running import ROOT

FILE = ROOT / "deploy" / "objectives.toml"

# What an objective may limit: label, lower limit or upper, unit, and its value in the
# result of a fault (None: there is none).
LEAST, MOST = "at least", "at most"
KNOWN = {
    "reads_percent": ("reads answered", LEAST, " %",
                      lambda r: r.during.reads_answered * 100),
    "writes_percent": ("writes answered", LEAST, " %",
                       lambda r: r.during.writes_answered * 100),
    "read_p99_ms": ("p99 of reads", MOST, " ms", lambda r: r.during.read_p99_ms),
    "write_p99_ms": ("p99 of writes", MOST, " ms", lambda r: r.during.write_p99_ms),
    "refused_within_s": ("slowest rejection", MOST, " s",
                         lambda r: r.during.slowest_rejection_s),
    "stale_percent": ("stale responses", MOST, " %",
                      lambda r: 100 * r.during.stale / max(r.during.reads, 1)),
    "noticed_s": ("detected after", MOST, " s", lambda r: r.noticed_s),
    "recovered_s": ("recovered after", MOST, " s", lambda r: r.recovered_s),
    "waited_s": ("longest wait", MOST, " s", lambda r: r.during.slowest_s),
    "delivered": ("changes delivered", LEAST, "",
                  lambda r: r.measured.get("delivered")),
    "goodput": ("goodput", LEAST, "", lambda r: r.measured.get("goodput")),
    "seen_s": ("change seen after", MOST, " s", lambda r: r.measured.get("seen_s")),
    "carried_over": ("carried over", LEAST, "",
                     lambda r: r.measured.get("carried_over")),
    "writers_back_s": ("writers back after", MOST, " s",
                       lambda r: r.measured.get("writers_back_s")),
    "taken_over_s": ("job taken over after", MOST, " s",
                     lambda r: r.measured.get("taken_over_s")),
}  # fmt: skip


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

    def misses(self, result) -> list[str]:
        """Return what the result of a fault misses, as sentences."""
        misses = []
        limits = self.every | self.faults.get(result.name, {})
        for name, limit in limits.items():
            label, bound, unit, value_of = KNOWN[name]
            value = value_of(result)
            if value is None:
                if name == "recovered_s":
                    misses.append("It did not recover.")
            elif value < limit if bound == LEAST else value > limit:
                misses.append(
                    f"{label}: {value:.4g}{unit}, not {bound} {limit:g}{unit}"
                )
        return misses

    def misses_at_the_end(self, counts: dict[str, int]) -> list[str]:
        """Return which findings (by label) are more than allowed, as sentences."""
        limits = {what: self.end.get(what.replace(" ", "_"), 0) for what in counts}
        return [
            f"{what}: {number}, not {limits[what]}"
            for what, number in counts.items()
            if number > limits[what]
        ]
