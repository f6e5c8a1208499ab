"""Metrics of jobs: of their runs, in the process of the pool, and of their queue.

A web process sets those of the queue once a second, in the health check of jobs.
"""

from compute.registry import tasks
from resilient_site.observability.metrics import counter, gauge, histogram

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


def record_run(task: str, outcome: str, seconds: float) -> None:
    """Count a run; `outcome` is the name of its class."""
    task = task if task in tasks else UNKNOWN
    JOBS_ENDED.labels(task, outcome.lower()).inc()
    JOB_DURATION.labels(task).observe(seconds)


def record_queue(**numbers: int) -> None:
    for name, number in numbers.items():
        JOBS[name].set(number)
