"""The peer: Celery's prefork pool, tuned, with a row in our table for each job.

Acknowledged late, so that a job outlives its worker, as with us. A job is one read and
two commits: that it runs, and how it ended.
"""

import os

from celery import Celery, signals
from django.db.models.functions import Now

app = Celery("celery_peer", broker=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=32,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    # Else its Django support opens a connection anew for every job.
    CELERY_DB_REUSE_MAX=1_000_000,
)


@app.task
def work(job_id: str) -> None:
    from compute.models import Job

    job = Job.objects.get(pk=job_id)
    Job.objects.filter(pk=job_id).update(state=Job.State.RUNNING, started_at=Now())
    Job.objects.filter(pk=job_id).update(
        state=Job.State.SUCCEEDED,
        finished_at=Now(),
        result={"number": job.params["number"]},
    )


@signals.worker_ready.connect
def report(**options: object) -> None:
    print("Celery is ready.", flush=True)
