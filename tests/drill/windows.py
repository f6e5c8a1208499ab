"""Statistics of samples in a time window."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.drill.clients import Sample
from tests.drill.history import IS_ANSWERED, Outcome
from tests.load.bench.results import percentile

BIN_S = 0.5


@dataclass
class Window:
    """Shares are from 0 to 1; without requests they are 1."""

    reads: int = 0
    writes: int = 0
    reads_answered: float = 1.0
    writes_answered: float = 1.0
    read_p50_ms: float = 0.0
    read_p99_ms: float = 0.0
    write_p50_ms: float = 0.0
    write_p99_ms: float = 0.0
    # The longest wait of an unanswered request.
    slowest_rejection_s: float = 0.0
    slowest_job_s: float = 0.0
    stale: int = 0
    oldest_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_samples(cls, samples: Iterable[Sample]) -> Self:
        samples = list(samples)
        window = cls()
        counted = Counter(f"{one.kind}: {one.outcome}" for one in samples)
        window.outcomes = dict(counted)
        for kind in ("read", "write"):
            chosen = [one for one in samples if one.kind == kind]
            # A rejected first read is not counted.
            promised = sum(one.outcome is not Outcome.UNREAD for one in chosen)
            answered = sum(one.outcome in IS_ANSWERED for one in chosen)
            share = answered / promised if promised else 1.0
            vars(window).update({
                f"{kind}s": len(chosen),
                f"{kind}s_answered": share,
                f"{kind}_p50_ms": milliseconds(chosen, 0.5),
                f"{kind}_p99_ms": milliseconds(chosen, 0.99),
            })  # fmt: skip
        ages = [one.age_s for one in samples if one.outcome is Outcome.STALE]
        window.stale, window.oldest_s = len(ages), max(ages, default=0.0)
        window.slowest_rejection_s = max(
            (one.took_s for one in samples if one.outcome not in IS_ANSWERED), default=0
        )
        window.slowest_job_s = max(
            (one.took_s for one in samples if one.kind == "job"), default=0
        )
        return window

    @property
    def reads_percent(self) -> str:
        return percent(self.reads_answered)

    @property
    def writes_percent(self) -> str:
        return percent(self.writes_answered)


def percent(share: float) -> str:
    """Format a share, rounded down: only all of it is 100 %."""
    return f"{int(share * 10_000) / 100:.4g} %"


def milliseconds(samples: Sequence[Sample], share: float) -> float:
    """Return a percentile of the latency of the answered, in milliseconds."""
    took = [one.took_s * 1000 for one in samples if one.outcome in IS_ANSWERED]
    return percentile(took, share) if took else 0.0


@dataclass
class Timeline:
    """Time series by half seconds, for plots; None without samples."""

    at_s: list[float]
    # Requests a second, by kind and outcome.
    rates: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    # Percentiles in milliseconds, by name.
    latencies: dict[str, list[float | None]] = field(default_factory=dict)

    @classmethod
    def from_samples(
        cls, samples: Sequence[Sample], started: float, ended: float
    ) -> Self:
        number = max(int((ended - started) / BIN_S), 1)
        timeline = cls([(place + 0.5) * BIN_S for place in range(number)])
        for kind in ("read", "write"):
            bins: list[list[Sample]] = [[] for _ in range(number)]
            for one in samples:
                place = int((one.due - started) / BIN_S)
                if one.kind == kind and 0 <= place < number:
                    bins[place].append(one)
            timeline.rates[kind] = {
                str(outcome): [
                    sum(s.outcome is outcome for s in one) / BIN_S for one in bins
                ]
                for outcome in Outcome
            }
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                timeline.latencies[f"{kind} {name}"] = [
                    milliseconds(one, share) or None for one in bins
                ]
        return timeline
