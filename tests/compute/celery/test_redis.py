"""Redis as a broker: deaths of server and worker, and lost acknowledgements."""

from contextlib import closing

import pytest

from compute.models import Job
from tests.compute.conftest import (
    all_ended,
    assert_each_completed_once,
    assert_jobs_go_on,
    running,
)
from tests.faults.proxy import Proxy
from tests.private_server import wait_for

pytestmark = pytest.mark.once


@pytest.mark.timeout(600)
def test_killed_redis_and_worker_lose_no_job(
    redis_own, make_pool, submit, record, tmp_path
):
    worker = make_pool(
        COMPUTE_BACKEND="celery", BROKER_URL=redis_own.url(),
        TEST_LOST_AFTER_S="2", TEST_LEASE_S="2",
    )  # fmt: skip
    gate = tmp_path / "busy"
    busy = [submit("nap", seconds=300, gate=str(gate)) for _ in range(2)]
    busy = [running(job) for job in busy]
    for number in range(10):
        submit("recorded", number=number)
    unpublished = Job.objects.filter(state="queued", handed_over_at=None)
    wait_for(lambda: not unpublished.exists())
    redis_own.kill()
    for number in range(10, 20):
        submit("recorded", number=number)
    # Their messages cannot be acknowledged, and were all that the worker may hold.
    gate.touch()
    assert {job.state for job in all_ended(busy)} == {"succeeded"}
    redis_own.start()  # empty
    assert len(assert_each_completed_once(record)) == 20

    # The worker is killed too, and starts while Redis is down.
    gate = tmp_path / "killed"
    job = running(submit("recorded", number=20, seconds=300, gate=str(gate)))
    worker.kill()
    redis_own.kill()
    worker.start()
    wait_for(lambda: "is unavailable" in worker.output())
    gate.touch()
    redis_own.start()
    assert_each_completed_once(record)
    job.refresh_from_db()
    assert job.attempts > 1
    assert worker.stop() == 0


@pytest.mark.timeout(300)
def test_network_that_loses_connections_to_redis_stops_no_jobs(
    redis_own, make_pool, submit, record
):
    with closing(Proxy(redis_own.port)) as network:
        worker = make_pool(
            COMPUTE_BACKEND="celery",
            BROKER_URL=f"redis://127.0.0.1:{network.port}/0",
            TEST_LOST_AFTER_S="2", TEST_LEASE_S="2",
        )  # fmt: skip
        assert_jobs_go_on(network, submit, record)
        assert worker.stop() == 0
