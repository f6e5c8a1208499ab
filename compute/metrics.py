"""Metrics of jobs: of their runs, in the process of the pool, and of their queue.

The queue is what the health check of jobs found last: a web process looks once a
second, so that the page of metrics waits for no database.
"""

from compute.health import jobs
from compute.outcomes import Outcome
from compute.queue import Claim
from compute.registry import tasks
from resilient_site.observability.metrics import counter, gauge, histogram, samplers

UNKNOWN = "(unknown)"

JOBS = {
    "waiting": gauge("jobs_waiting", "Jobs queued, without parts.", mode="livemax"),
    "due": gauge("jobs_due", "Jobs that could run now, with parts.", mode="livemax"),
    "running": gauge("jobs_running", "Jobs running.", mode="livemax"),
}
JOBS_ENDED = counter("jobs_ended", "Runs of jobs, by how they ended.", "task", "how")
JOB_DURATION = histogram("job_duration_seconds", "Duration of runs of jobs.", "task")
POOL_PROCESSES_STARTED = counter(
    "pool_processes_started", "Processes of the pool started."
)


def record_run(claim: Claim, outcome: Outcome, seconds: float) -> None:
    task = claim.task if claim.task in tasks else UNKNOWN
    JOBS_ENDED.labels(task, type(outcome).__name__.lower()).inc()
    JOB_DURATION.labels(task).observe(seconds)


def sample_queue() -> None:
    for name, number in jobs.counted.items():
        JOBS[name].set(number)


def register_all() -> None:
    samplers.append(sample_queue)
