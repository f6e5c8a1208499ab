"""Workers and brokers that are killed, stopped and cut off: each job completes once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing

import psutil
import pytest

from compute import jobs
from compute.models import Job
from tests.compute.celery.conftest import (
    CELERY,
    environment_of_celery,
    main_process,
    runs_on,
)
from tests.compute.conftest import (
    Pool,
    all_ended,
    assert_each_completed_once,
    assert_jobs_go_on,
    ended,
    expire_leases,
    processes_of,
    running,
)
from tests.faults.proxy import Proxy
from tests.private_server import Server, alive, wait_for
from tests.servers import RabbitMQ
from tests.services_plugin import running as running_server

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]


class ImpatientRabbitMQ(RabbitMQ):
    """One that closes a channel without an acknowledgement for three seconds."""

    def __init__(self) -> None:
        super().__init__()
        with (self.dir / "rabbitmq.conf").open("a") as conf:
            conf.write("consumer_timeout = 3000\n")
        self.env["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
            " -rabbit channel_tick_interval 500"  # of its check
        )


@pytest.fixture(scope="module")
def impatient_rabbitmq() -> Iterator[RabbitMQ]:
    yield from running_server(ImpatientRabbitMQ)


@pytest.fixture
def server(request) -> Iterator[Server]:
    server = request.getfixturevalue(getattr(request, "param", "impatient_rabbitmq"))
    yield server
    if server.running():
        server.resume()
    else:
        server.start()


@pytest.fixture
def make_workers(server, make_pools):
    return lambda *commands, **more: make_pools(
        1, *commands, **environment_of_celery(server.url()) | more
    )


def test_jobs_of_a_killed_worker_run_on_another(make_workers, submit, record, tmp_path):
    """One has a relay, the other is started by Celery's own command."""
    worker, other = make_workers((*CELERY, "worker"))

    # The parts of a job run on both.
    gate = tmp_path / "parts"
    job = submit("in_parts", parts=4, seconds=300, gate=str(gate))
    held = job.parts.filter(state="running")
    wait_for(lambda: held.count() == 4)
    assert {runs_on(part, worker) for part in held} == {True, False}
    gate.touch()
    assert ended(job).result == {"sum": 14, "parts": 4}

    for is_main in (True, False):
        victim = main_process(worker) if is_main else psutil.Process(worker.pid)
        gate = tmp_path / f"killed-{victim.pid}"
        loop = loop_on(worker, submit)
        started = processes_of(loop, worker)
        for number in range(3):
            submit("recorded", number=number, seconds=300, gate=str(gate))
        family = psutil.Process(worker.pid).children(recursive=True)
        holder = main_process(worker).pid
        victim.kill()
        worker.wait()
        # Also a process in a loop in C, and what its job has started.
        assert not psutil.wait_procs(family, timeout=90)[1]
        wait_for(lambda started=started: not alive(started))
        expire_leases(worker, holder)
        gate.touch()
        worker.start()
        wait_for(lambda loop=loop: running(loop).attempts > 1)
        jobs.cancel(loop)
        assert ended(loop).state == "cancelled"
        assert_each_completed_once(record)


def loop_on(worker: Pool, submit: Callable[..., Job]) -> Job:
    """Return a job of `worker` in a loop in C, which has started processes."""
    while True:
        loop = submit("leave_processes", end="loop")
        wait_for(lambda loop=loop: len(processes_of(loop, worker)) == 3)
        if runs_on(running(loop), worker):
            return loop
        jobs.cancel(loop)
        ended(loop)


@pytest.mark.parametrize("server", ["impatient_rabbitmq", "redis_own"], indirect=True)
def test_broker_that_is_cut_off_or_killed_loses_no_job_and_duplicates_none(
    server, make_pool, submit, record, gate
):
    with closing(Proxy(server.port)) as network:
        url = server.url().replace(f":{server.port}", f":{network.port}")
        worker = make_pool(**environment_of_celery(url))
        assert_jobs_go_on(network, submit, record)

        busy = [running(submit("nap", seconds=300, gate=str(gate))) for _ in range(2)]
        for number in range(2, 10):
            submit("recorded", number=number)
        unpublished = Job.objects.filter(state="queued", handed_over_at=None)
        wait_for(lambda: not unpublished.exists())
        server.kill()
        during = [submit("recorded", number=number) for number in range(10, 20)]
        # Their messages cannot be acknowledged, and are all that the worker may hold.
        gate.touch()
        assert {job.state for job in all_ended(busy)} == {"succeeded"}
        # Others may have seemed lost, and been about to be published again.
        assert set(during) <= set(unpublished.all())
        server.start()
        assert_each_completed_once(record)
        assert [job.attempts for job in all_ended(busy)] == [1, 1]
        assert worker.stop() == 0


def test_long_job_does_not_hold_up_others(make_workers, submit, record, gate):
    """Its message is delivered again, as it is not acknowledged for too long."""
    [worker] = make_workers()
    running(submit("recorded", number=0, seconds=300, gate=str(gate)))
    wait_for(lambda: "PRECONDITION_FAILED" in worker.output())
    for number in range(1, 6):
        submit("recorded", number=number)
    succeeded = Job.objects.filter(state="succeeded")
    wait_for(lambda: succeeded.count() == 5)
    gate.touch()
    assert len(assert_each_completed_once(record)) == 6


@pytest.mark.parametrize("grace_s", [600, 1])
def test_stopped_worker_finishes_or_returns_its_jobs(
    server, make_workers, submit, gate, grace_s
):
    """At a second signal, or when the grace time is over; without the broker."""
    [worker] = make_workers(COMPUTE_GRACE_S=str(grace_s))
    short = running(submit("nap", seconds=300, gate=str(gate)))
    loop = submit("leave_processes", end="loop")
    wait_for(lambda: len(processes_of(loop, worker)) == 3)
    family = psutil.Process(worker.pid).children(recursive=True)
    server.pause()
    if grace_s == 1:  # in which it might not end
        gate.touch()
        ended(short)
    worker.process.terminate()
    gate.touch()
    assert ended(short).state == "succeeded"
    # Of another kind: two of one could be merged.
    assert (worker.stop(signal.SIGINT) if grace_s > 1 else worker.wait()) == 0
    assert not psutil.wait_procs(family, timeout=90)[1]
    loop.refresh_from_db()
    assert (loop.state, loop.attempts) == ("queued", 0)
    assert not alive(processes_of(loop, worker))
