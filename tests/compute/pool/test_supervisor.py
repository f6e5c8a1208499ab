"""The supervisor: how it stops, and what happens to jobs when it dies."""

import os
import signal
from datetime import timedelta

import psutil
import pytest
from django.utils import timezone

from compute.models import Job
from compute.pool.supervisor import DatabaseQueue, Supervisor
from compute.pool.wakeup import Wakeup
from resilient_site.models import IdempotencyRecord
from tests.compute.conftest import all_ended, ended, running
from tests.private_server import wait_for

# A process suspended in a transaction would hold SQLite's only lock.
pytestmark = pytest.mark.once


def epoch(job: Job) -> int:
    return Job.objects.values_list("epoch", flat=True).get(pk=job.pk)


def test_processes_of_a_killed_supervisor_end_and_its_jobs_are_claimed_again(
    make_pool, submit
):
    """The kernel ends the processes, also one in a loop in C."""
    pool = make_pool(TEST_LEASE_S="1")
    loop, nap = submit("endless_c_loop"), submit("nap", seconds=50)
    running(loop)
    running(nap)
    family = psutil.Process(pool.pid).children(recursive=True)
    pool.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    pool.start()
    wait_for(lambda: min(epoch(loop), epoch(nap)) > 1)


def test_lease_and_intervals_allow_for_15_seconds():
    """A lease expires, is noticed, and the job is claimed."""
    supervisor = Supervisor(source=None, wakeup=Wakeup())
    expired_s = 10 + supervisor._requeue_lost.every_s
    assert expired_s + supervisor._poll.every_s < 15
    assert supervisor._renew.every_s < 10 / 2
    supervisor.wakeup.close()


def test_stop_lets_running_jobs_finish_and_claims_no_more(make_pool, submit, gate):
    pool = make_pool(COMPUTE_GRACE_S="60")
    held = [running(submit("nap", seconds=60, gate=str(gate))) for _ in range(2)]
    waiting = submit("echo", number=1)
    pool.process.terminate()
    gate.touch()
    assert pool.wait() == 0
    assert {job.state for job in all_ended(held)} == {"succeeded"}
    waiting.refresh_from_db()
    assert waiting.state == "queued"


def test_stop_requeues_jobs_that_outlast_the_grace_time(make_pool, submit):
    pool = make_pool(COMPUTE_GRACE_S="1")
    job = running(submit("nap", seconds=60))
    assert pool.stop() == 0
    job.refresh_from_db()
    assert (job.state, job.attempts, job.lease_until) == ("queued", 0, None)


def test_second_signal_stops_at_once(make_pool, submit):
    pool = make_pool(COMPUTE_GRACE_S="600")
    job = running(submit("nap", seconds=60))
    waiting = submit("echo", number=1)
    # Two signals of one kind could be merged into one.
    os.kill(pool.pid, signal.SIGTERM)
    assert pool.stop(signal.SIGINT) == 0
    job.refresh_from_db()
    waiting.refresh_from_db()
    assert (job.state, waiting.state) == ("queued", "queued")


def test_suspended_supervisor_that_resumes_writes_nothing(make_pools, submit, gate):
    """Suspended for longer than its lease, it has lost its job to another."""
    one, other = make_pools(2, COMPUTE_PROCESSES="1", TEST_LEASE_S="1")
    job = running(submit("nap", seconds=60, gate=str(gate)))
    sleeper = one if f":{one.pid}:" in job.worker else other
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_for(lambda: epoch(job) > 1)
    gate.touch()  # for the processes of both
    os.kill(sleeper.pid, signal.SIGCONT)
    job = ended(job)
    assert (job.state, job.result) == ("succeeded", {"attempt": job.attempts})
    assert job.attempts > 1
    lost = ("had been lost", "was claimed by another")
    wait_for(lambda: any(text in sleeper.output() for text in lost))


def test_supervisor_deletes_expired_idempotency_records(transactional_db, owner):
    IdempotencyRecord.objects.create(
        owner=owner, key="k", status=204, headers=[], body=b"",
        created_at=timezone.now() - timedelta(hours=25),
    )  # fmt: skip
    supervisor = Supervisor(source=DatabaseQueue(), wakeup=Wakeup())
    supervisor._sync_with_database()
    supervisor.wakeup.close()
    assert not IdempotencyRecord.objects.exists()
