"""Metrics of jobs: the runs counted by the pool, and the length of the queue."""

from collections import defaultdict
from collections.abc import Iterator

from compute.health import jobs
from compute.outcomes import Outcome
from compute.queue import Claim
from compute.registry import tasks
from resilient_site.observability.metrics import counts, process
from resilient_site.observability.metrics.process import Sample, of, of_histogram

UNKNOWN = "(unknown)"

_durations: defaultdict[str, counts.Histogram] = defaultdict(counts.Histogram)


def record_run(claim: Claim, outcome: Outcome, seconds: float) -> None:
    task = claim.task if claim.task in tasks else UNKNOWN
    counts.count("jobs_ended", task, type(outcome).__name__.lower())
    _durations[task].note(seconds)


def record_process_start() -> None:
    counts.count("pool_processes_started")


def samples() -> Iterator[Sample]:
    for task, found in list(_durations.items()):
        yield of_histogram("job_duration_seconds", found, task)
    for name, number in jobs.counted.items():
        yield of(f"jobs_{name}", number)


def register_all() -> None:
    process.sources.append(samples)
