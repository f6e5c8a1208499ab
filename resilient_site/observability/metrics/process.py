"""The figures of this process, taken from where they are counted, when asked for."""

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from django.db.backends.signals import connection_created

from resilient_site.observability import memory_usage
from resilient_site.observability.logging import line_handler
from resilient_site.observability.metrics import counts
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Snapshot, State


@dataclass(frozen=True)
class Sample:
    """One figure; of a histogram its counts by bucket, not added up, and the sum."""

    name: str
    labels: tuple[str, ...]
    value: float | list[float]


type Source = Callable[[], Iterable[Sample]]

sources: list[Source] = []


def of(name: str, value: float, *labels: str) -> Sample:
    return Sample(name, labels, value)


def of_histogram(name: str, found: counts.Histogram, *labels: str) -> Sample:
    return Sample(name, labels, [*found.buckets, found.total])


def all_samples(role: str) -> list[Sample]:
    found = [*_of_memory(role), *_of_counts(), *_of_breakers()]
    for source in sources:
        found += source()
    return found


def _of_memory(role: str) -> Iterator[Sample]:
    size = memory_usage.resident_bytes()
    yield of("processes", 1, role)
    yield of("processes_started", 1, role)
    yield of("resident_bytes", size, role)
    yield of("largest_resident_bytes", size, role)
    handler = line_handler()
    yield of("log_lines_dropped", handler.dropped if handler else 0)
    for generation, told in enumerate(gc.get_stats()):
        yield of("gc_collections", told["collections"], str(generation))


def _of_counts() -> Iterator[Sample]:
    # Copied in one step: the event loop goes on counting.
    for (route, method, status, how), number in list(counts.requests.items()):
        yield of("requests", number, route, method, str(status), how)
    for labels, found in list(counts.durations.items()):
        yield of_histogram("request_duration_seconds", found, *labels)
    for (name, *rest), number in counts.counted().items():
        yield of(name, number, *rest)


def _of_breakers() -> Iterator[Sample]:
    for breaker in breakers.all_breakers():
        for state in State:
            is_so = breaker.state is state
            yield of("breakers", is_so, breaker.name, _word(state))


def _word(state: State) -> str:
    return state.replace(" ", "_")


def begin() -> None:
    """Count from here on what is told by signals and listeners."""
    for breaker in breakers.all_breakers():
        breaker.on_transition(_note_transition)
    connection_created.connect(_note_connection, dispatch_uid="metrics")


def _note_transition(snapshot: Snapshot) -> None:
    counts.count("breaker_transitions", snapshot.name, _word(snapshot.state))


def _note_connection(**kwargs: object) -> None:
    counts.count("database_connections_opened")
