"""What clients met with in a stretch of time, in figures."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.drill.asking import Seen
from tests.drill.knowledge import IS_ANSWERED, Outcome
from tests.load.bench.results import percentile


@dataclass
class Window:
    """Shares are of 1; with no request at all they are 1."""

    reads: int = 0
    writes: int = 0
    reads_answered: float = 1.0
    writes_answered: float = 1.0
    read_p50_ms: float = 0.0
    read_p99_ms: float = 0.0
    write_p50_ms: float = 0.0
    write_p99_ms: float = 0.0
    # Of those who were not answered, who waited longest for that.
    slowest_refusal_s: float = 0.0
    slowest_job_s: float = 0.0
    stale: int = 0
    oldest_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: Iterable[Seen]) -> Self:
        seen = list(seen)
        kinds = {kind: [one for one in seen if one.kind == kind]
                 for kind in ("read", "write", "job")}  # fmt: skip
        reads, writes = kinds["read"], kinds["write"]
        stale = [one.age_s for one in seen if one.outcome is Outcome.STALE]
        counted = Counter(f"{one.kind}: {one.outcome}" for one in seen)
        return cls(
            reads=len(reads),
            writes=len(writes),
            reads_answered=share_answered(reads),
            writes_answered=share_answered(writes),
            read_p50_ms=milliseconds(reads, 0.5),
            read_p99_ms=milliseconds(reads, 0.99),
            write_p50_ms=milliseconds(writes, 0.5),
            write_p99_ms=milliseconds(writes, 0.99),
            slowest_refusal_s=slowest(s for s in seen if s.outcome not in IS_ANSWERED),
            slowest_job_s=slowest(kinds["job"]),
            stale=len(stale),
            oldest_s=max(stale, default=0.0),
            outcomes=dict(counted),
        )

    @property
    def reads_percent(self) -> str:
        return percent(self.reads_answered)

    @property
    def writes_percent(self) -> str:
        return percent(self.writes_answered)


def percent(share: float) -> str:
    """Return it rounded so that only all of it is 100 %."""
    return f"{int(share * 10_000) / 100:.4g} %"


def share_answered(seen: Sequence[Seen]) -> float:
    answered = sum(one.outcome in IS_ANSWERED for one in seen)
    promised = sum(one.outcome is not Outcome.UNREAD for one in seen)
    return answered / promised if promised else 1.0


def milliseconds(seen: Sequence[Seen], share: float) -> float:
    """Return the percentile of the answers, in milliseconds."""
    took = [one.took_s * 1000 for one in seen if one.outcome in IS_ANSWERED]
    return percentile(took, share) if took else 0.0


def slowest(seen: Iterable[Seen]) -> float:
    return max((one.took_s for one in seen), default=0.0)


BIN_S = 0.5


@dataclass
class Timeline:
    """The same by half seconds, for plots; what is missing is None."""

    at_s: list[float] = field(default_factory=list)
    # Requests a second, by kind and outcome.
    rates: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    # Percentiles in milliseconds, by name.
    latencies: dict[str, list[float | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: Sequence[Seen], began: float, ended: float) -> Self:
        number = max(int((ended - began) / BIN_S), 1)
        bins: list[list[Seen]] = [[] for _ in range(number)]
        for one in seen:
            place = int((one.due - began) / BIN_S)
            if 0 <= place < number:
                bins[place].append(one)
        timeline = cls([(place + 0.5) * BIN_S for place in range(number)])
        for kind in ("read", "write"):
            timeline._add(kind, [[s for s in one if s.kind == kind] for one in bins])
        return timeline

    def _add(self, kind: str, bins: Sequence[Sequence[Seen]]) -> None:
        self.rates[kind] = {
            str(outcome): [
                sum(s.outcome is outcome for s in one) / BIN_S for one in bins
            ]
            for outcome in Outcome
        }
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            self.latencies[f"{kind} {name}"] = [
                milliseconds(one, share) or None for one in bins
            ]
