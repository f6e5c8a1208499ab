"""Supervisors: stopped, suspended, killed, and cut off from their database."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import psutil
import pytest
from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.utils import timezone

from compute import jobs
from compute.models import Job
from compute.pool import supervisor as module
from compute.pool.supervisor import Supervisor
from items.models import ChangeBatch, Item, ItemChange
from resilient_site.models import IdempotencyRecord
from tests.compute import factories
from tests.compute.conftest import (
    all_ended,
    assert_each_completed_once,
    ended,
    expire_leases,
    processes_of,
    running,
    runs_on,
)
from tests.factories import make_items
from tests.private_server import alive, wait_for

JOBS = 60


@pytest.fixture
def supervisor(shared_database) -> Iterator[Supervisor]:
    """One in this process, without processes of its own."""
    supervisor = Supervisor()
    yield supervisor
    supervisor.wakeup.close()


def epoch(job: Job) -> int:
    return Job.objects.values_list("epoch", flat=True).get(pk=job.pk)


def finished() -> int:
    return Job.objects.exclude(state__in=Job.UNFINISHED).count()


def submit_many(submit: Callable[..., Job]) -> int:
    """Return when some of them have finished; return how many others had."""
    before = finished()
    for number in range(JOBS):
        submit("recorded", number=number, seconds=0.01)
    wait_for(lambda: finished() > before + JOBS // 4)
    return before


@pytest.mark.once
def test_lease_and_intervals_allow_for_15_seconds(supervisor):
    """A lease expires, is noticed, and the job is claimed."""
    expired_s = 10 + supervisor._renew.every_s
    assert expired_s + supervisor._poll.every_s < 15
    assert supervisor._renew.every_s < 10 / 2


@pytest.mark.once
def test_supervisor_deletes_expired_idempotency_records(supervisor, owner):
    IdempotencyRecord.objects.create(
        owner=owner, key="k", status=204, headers=[], body=b"",
        created_at=timezone.now() - timedelta(hours=25),
    )  # fmt: skip
    supervisor._sync_with_database()
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.parametrize(("processes", "anonymous"), [(1, 1), (2, 1), (3, 1), (4, 2)])
@pytest.mark.once
def test_anonymous_jobs_hold_at_most_half_of_the_pool(
    supervisor, settings, owner, processes, anonymous
):
    """Those that run, and those that are prefetched."""
    settings.COMPUTE_PROCESSES = processes
    for _ in range(4):
        Job.objects.create(task="echo", anonymous_client="somebody")
    factories.submit("echo", owner)
    claims = supervisor._claim(10)
    assert [claim.is_anonymous for claim in claims] == [False] + [True] * anonymous
    supervisor.workers[0].claim = claims.pop()
    supervisor._prefetched.extend(claims)
    assert supervisor._claim(10) == []
    supervisor.workers[0].claim = None
    assert len(supervisor._claim(10)) == 1


@pytest.mark.once
def test_supervisor_cancels_jobs_that_are_not_awaited(supervisor):
    created = timezone.now() - timedelta(minutes=1)
    late = {"anonymous_client": "somebody", "created_at": created}
    job = factories.make_job(**late)
    supervisor._sync_with_database()
    job.refresh_from_db()
    assert job.state == "cancelled"


@pytest.mark.once
def test_clean_up_is_soon_repeated_while_it_finds_something(supervisor, monkeypatch):
    for found, is_soon in ((1, True), (0, False)):
        monkeypatch.setattr(module, "clean_up", lambda found=found: {"rows": found})
        supervisor._clean.next = 0
        supervisor._sync_with_database()
        again = time.monotonic() + module.CLEAN_AGAIN_S
        assert (supervisor._clean.next <= again) is is_soon


@pytest.mark.once
def test_stop_requeues_jobs_that_outlast_the_grace_time(supervisor, submit, settings):
    settings.COMPUTE_GRACE_S = 0
    job = submit("nap")
    supervisor.workers[0].claim = factories.claim().claim
    supervisor.stop()
    supervisor.run()
    job.refresh_from_db()
    assert (job.state, job.attempts, job.lease_until) == ("queued", 0, None)


def test_pool_is_woken_by_what_is_submitted_retried_and_cancelled(make_pool, submit):
    """At once: it polls after ten minutes."""
    pool = make_pool(TEST_POLL_S="600")
    wait_for(lambda: len(pool.workers()) == 2)
    assert ended(submit("echo", number=1)).state == "succeeded"
    # The parts, and the merge, too.
    job = ended(submit("in_parts"))
    assert job.state == "succeeded"
    again = jobs.run_again(job, owner=job.owner)
    assert ended(again).state == "succeeded"
    job = ended(submit("refuse"))
    assert jobs.retry(job)
    assert ended(job).state == "failed"
    job = running(submit("nap", seconds=600))
    jobs.cancel(job)
    assert ended(job).state == "cancelled"


@pytest.mark.once
def test_short_jobs_are_prefetched_but_none_behind_a_long_one(make_pool, submit):
    make_pool(TEST_SHORT_S="600")  # on a slow machine none is as short as it should be
    ended(submit("echo"))
    with transaction.atomic():
        first = [submit("echo", number=number) for number in range(12)]
        naps = [submit("nap", seconds=500) for _ in range(2)]
        last = [submit("echo", number=number) for number in range(12)]
    all_ended(first)
    claimed = Job.objects.filter(state=Job.State.RUNNING)
    wait_for(lambda: set(claimed.all()) == set(naps))
    assert Job.objects.filter(state=Job.State.QUEUED).count() == len(last)
    for nap in naps:
        jobs.cancel(nap)
    last = all_ended(last)
    assert {(job.state, job.attempts) for job in last} == {("succeeded", 1)}
    # Some were claimed before, and released.
    assert max(job.epoch for job in last) > 1
    assert {job.state for job in all_ended(naps)} == {"cancelled"}


@pytest.mark.once
def test_mistakes_of_a_task_end_its_run_alone(make_pool, submit, gate):
    make_pool()
    neighbour = running(submit("nap", seconds=500, gate=str(gate)))
    bad = all_ended(
        [submit("mistaken", of=of) for of in ("progress", "parts", "no parts")]
    )
    assert {(job.state, job.error_code) for job in bad} == {("failed", "error")}
    for of in ("nan", "nothing"):
        assert ended(submit("mistaken", of=of)).state == "succeeded"
    gate.touch()
    assert ended(neighbour).attempts == 1


@pytest.mark.once
def test_job_of_a_task_that_a_worker_lacks_waits_for_one_that_has_it(make_pool, submit):
    old_version = make_pool(COMPUTE_TASKS="")
    with transaction.atomic():
        job, aged, other = (
            submit("echo", number=3),
            submit("echo"),
            submit("export_items"),
        )
        hours_ago = timezone.now() - timedelta(hours=2)
        Job.objects.exclude(pk=job.pk).update(started_at=hours_ago)
        Job.objects.filter(pk=other.pk).update(params={"of_the_next_version": True})
    assert ended(aged).error_code == ended(other).error_code == "task_unknown"
    wait_for(lambda: Job.objects.filter(pk=job.pk, message__contains="version"))
    assert old_version.stop() == 0
    Job.objects.filter(pk=job.pk).update(run_after=None)
    make_pool()
    job = ended(job)
    assert (job.state, job.attempts, job.failures) == ("succeeded", 1, 0)


@pytest.mark.once
def test_stop_lets_running_jobs_finish_until_a_second_signal(make_pool, submit, gate):
    pool = make_pool(COMPUTE_GRACE_S="600")
    short, long = submit("nap", seconds=500, gate=str(gate)), submit("nap", seconds=500)
    running(short)
    running(long)
    waiting = submit("echo", number=1)
    pool.process.terminate()
    gate.touch()
    assert ended(short).state == "succeeded"
    assert pool.stop(signal.SIGINT) == 0
    long.refresh_from_db()
    waiting.refresh_from_db()
    assert (long.state, long.attempts, waiting.state) == ("queued", 0, "queued")


def test_jobs_of_suspended_and_killed_supervisors_complete_once_on_others(
    make_pools, submit, record, gate
):
    one, other = pools = make_pools(2)
    if connection.vendor == "postgresql":  # in a transaction, it would lock SQLite
        job = running(submit("nap", seconds=500, gate=str(gate)))
        sleeper = one if runs_on(job, one) else other
        os.kill(sleeper.pid, signal.SIGSTOP)
        expire_leases(sleeper)
        wait_for(lambda: epoch(job) > job.epoch)
        gate.touch()  # for the processes of both
        os.kill(sleeper.pid, signal.SIGCONT)
        job = ended(job)
        assert (job.state, job.result) == ("succeeded", {"attempt": job.attempts})
        assert job.attempts > 1
        # It writes nothing.
        lost = ("had been lost", "was claimed by another")
        wait_for(lambda: any(text in sleeper.output() for text in lost))

    loop = submit("leave_processes", end="loop")
    wait_for(lambda: len(processes_of(loop, one)) == 3)
    loop = running(loop)
    started = processes_of(loop, one)
    for turn, victim in enumerate(
        sorted(pools, key=lambda pool: not runs_on(loop, pool))
    ):
        submit_many(submit)
        family = psutil.Process(victim.pid).children(recursive=True)
        victim.kill()
        # The kernel ends the processes, also one in a loop in C.
        _, still_alive = psutil.wait_procs(family, timeout=90)
        assert not still_alive
        wait_for(lambda: not alive(started))
        expire_leases(victim)
        if not turn:
            wait_for(lambda: epoch(loop) > loop.epoch)
            jobs.cancel(loop)
            victim.start()
    assert_each_completed_once(record)


def sessions_that_wait() -> int:
    with connection.cursor() as cursor:
        # What it shows is else that of the transaction's first look.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT COUNT(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return cursor.fetchone()[0]


@pytest.mark.once
def test_items_that_two_processes_change_are_changed_once_though_both_are_killed(
    make_pool, submit, owner
):
    number = 100
    make_items(number)
    owner.user_permissions.set(Permission.objects.filter(codename="change_item"))
    pool = make_pool(TEST_PORTION="20")
    change = {"add_tags": ["new", "newer"], "status": "retired"}
    job = submit("change_items", all=True, **change)
    wait_for(ChangeBatch.objects.exists)
    with transaction.atomic():
        ChangeBatch.objects.select_for_update().get()
        # Both have changed items, and cannot commit.
        wait_for(lambda: sessions_that_wait() == 2)
        for process in pool.workers():
            process.kill()
    job = ended(job)
    assert (job.state, job.result["changed"]) == ("succeeded", number)
    assert max(job.parts.values_list("attempts", flat=True)) > 1
    changed = ItemChange.objects.filter(batch=job.pk, version=2)
    assert changed.count() == ItemChange.objects.count() - number == number
    assert ChangeBatch.objects.get().updated == number
    assert Item.objects.tagged(["new", "newer"]).count() == number


@pytest.mark.once
def test_jobs_survive_outages_of_the_database(
    postgres_server, make_pool, submit, record
):
    """Killed, stopped and suspended, each amid the jobs."""
    pool = make_pool(COMPUTE_GRACE_S="600")
    for fault in ("kill", "stop", "pause"):
        before = submit_many(submit)
        getattr(postgres_server, fault)()
        time.sleep(0.5)  # the length of the outage
        if fault == "pause":
            postgres_server.resume()
        else:
            postgres_server.start()
            connection.close()
        wait_for(lambda before=before: finished() == before + JOBS)
    assert_each_completed_once(record)

    job = running(submit("nap", seconds=500))
    # Two signals at once, of two kinds: those of one could be merged.
    pool.process.terminate()
    assert pool.stop(signal.SIGINT) == 0
    job.refresh_from_db()
    assert (job.state, job.attempts, job.lease_until) == ("queued", 0, None)
