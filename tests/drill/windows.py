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
    # The longest wait of an unanswered request, and of any read or write.
    slowest_rejection_s: float = 0.0
    slowest_s: float = 0.0
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
        waits = (one.took_s for one in samples if one.kind != "job")
        window.slowest_s = max(waits, default=0)
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


def rates_of(
    samples: Sequence[Sample], started: float, ended: float
) -> dict[str, dict[str, list[float]]]:
    """Return requests a second by kind and outcome, over time in bins of BIN_S."""
    number = max(int((ended - started) / BIN_S), 1)
    rates = {
        kind: {str(outcome): [0.0] * number for outcome in Outcome}
        for kind in ("read", "write")
    }
    for one in samples:
        place = int((one.due - started) // BIN_S)
        if one.kind in rates and 0 <= place < number:
            rates[one.kind][one.outcome][place] += 1 / BIN_S
    return rates
