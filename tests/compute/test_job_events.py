"""Job events: one query for all subscribers, and events of changes only."""

import asyncio
from contextlib import aclosing
from uuid import uuid4

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from compute import job_events
from compute.job_events import KEEP_ALIVE, RETRY, frame, watcher
from compute.models import Job
from resilient_site.resilience import poller
from tests.event_streams import in_asyncio, join_pollers, parse_events, poller_threads

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]

RUNNING = {"state": "running", "attempts": 1}
TICK_S = 0.02


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Short times, and no thread left behind."""
    monkeypatch.setattr(job_events, "TICK_S", TICK_S)
    monkeypatch.setattr(poller, "BACK_OFF_MAX_S", 2 * TICK_S)
    monkeypatch.setattr(poller, "LINGER_S", 2 * TICK_S)
    yield
    join_pollers("jobs")


@pytest.fixture
def reads(monkeypatch):
    """The number of queries in each reading."""
    counts = []
    read = job_events.read

    def counted(job_ids):
        with CaptureQueriesContext(connection) as queries:
            states = read(job_ids)
        counts.append(len(queries))
        return states

    monkeypatch.setattr(job_events, "read", counted)
    return counts


def known(job: Job) -> dict[str, object]:
    return {name: getattr(job, name) for name in job_events.FIELDS}


def events(job: Job):
    return aclosing(watcher().events(job.pk, known(job)))


async def change(job: Job, **fields: object) -> None:
    if fields.get("state") in {"succeeded", "failed", "cancelled"}:
        fields["finished_at"] = timezone.now()
    await Job.objects.filter(pk=job.pk).aupdate(**fields)


def shown(event: bytes) -> dict[str, object]:
    ((name, _, data),) = parse_events(event)
    assert name == "job"
    return data


@in_asyncio
async def test_stream_has_all_changes_until_the_end():
    job = await Job.objects.acreate(task="t")
    async with events(job) as stream:
        first = await anext(stream)
        assert first == RETRY + frame(known(job))
        assert shown(first) == {
            "id": str(job.pk),
            "state": "queued",
            "progress": {"fraction": 0, "message": ""},
            "attempts": 0,
        }
        await change(job, **RUNNING)
        assert shown(await anext(stream))["state"] == "running"
        # What is written but not changed, or not shown, is no event.
        await change(job, **RUNNING, worker="w", result=[1])
        await change(job, fraction=0.5, message="half\nway")
        half = shown(await anext(stream))
        assert half["progress"] == {"fraction": 0.5, "message": "half\nway"}
        await change(job, state="succeeded")
        last = await anext(stream)
        assert shown(last)["state"] == "succeeded"
        assert b"\nid: end\n" in last
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@in_asyncio
async def test_stream_has_a_change_before_its_subscription():
    job = await Job.objects.acreate(task="t")
    await change(job, state="failed")
    async with events(job) as stream:
        await anext(stream)
        assert shown(await anext(stream))["state"] == "failed"


@in_asyncio
async def test_slow_client_receives_only_the_latest_state():
    job = await Job.objects.acreate(task="t", state="running")
    async with events(job) as slow, events(job) as quick:
        await anext(slow)
        await anext(quick)
        for fraction in (0.1, 0.2, 0.3):
            await change(job, fraction=fraction)
            assert shown(await anext(quick))["progress"]["fraction"] == fraction
        assert shown(await anext(slow))["progress"]["fraction"] == 0.3


@in_asyncio
async def test_stream_ends_when_the_job_is_deleted():
    job = await Job.objects.acreate(task="t")
    async with events(job) as stream:
        await anext(stream)
        await Job.objects.all().adelete()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@in_asyncio
async def test_wait_returns_at_the_end_of_the_job():
    job = await Job.objects.acreate(task="t")
    end = asyncio.create_task(watcher().finished(job.pk))
    async with events(job) as stream:
        await anext(stream)
        await change(job, **RUNNING)
        await anext(stream)
        assert not end.done()
        await change(job, state="cancelled")
        await end
    await watcher().finished(uuid4())  # which does not exist


@in_asyncio
async def test_subscribers_share_one_query_and_none_costs_none(reads):
    jobs = [await Job.objects.acreate(task="t", state="running") for _ in range(20)]
    streams = [watcher().events(job.pk, known(job)) for job in jobs * 10]
    for stream in streams:
        await anext(stream)
    ends = [asyncio.create_task(watcher().finished(job.pk)) for job in jobs]
    await Job.objects.all().aupdate(fraction=0.5)
    for stream in streams:
        assert shown(await anext(stream))["progress"]["fraction"] == 0.5
    assert set(reads) == {1}
    (thread,) = poller_threads("jobs")

    for end in ends:
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    for stream in streams:
        await stream.aclose()
    await asyncio.to_thread(thread.join, 90)
    assert not thread.is_alive()
    before = len(reads)

    async with events(jobs[0]) as stream:  # and from the start again
        await anext(stream)
        await change(jobs[0], fraction=0.6)
        await anext(stream)
    assert len(reads) > before


@pytest.mark.parametrize(
    ("error", "cause"),
    [(OperationalError("is down"), ", the database failed: is down"), (OSError(), ".")],
)
@in_asyncio
async def test_failure_is_logged_once_and_streams_continue(
    monkeypatch, caplog, error, cause
):
    caplog.set_level("INFO")
    monkeypatch.setattr(job_events, "KEEP_ALIVE_S", TICK_S)
    job = await Job.objects.acreate(task="t")
    working, tried = job_events.read, asyncio.Queue()
    loop = asyncio.get_running_loop()

    def failing(job_ids):
        loop.call_soon_threadsafe(tried.put_nowait, None)
        raise error

    async with events(job) as stream:
        await anext(stream)
        monkeypatch.setattr(job_events, "read", failing)
        for _ in range(4):
            await tried.get()
        assert await anext(stream) == KEEP_ALIVE
        await change(job, **RUNNING)
        monkeypatch.setattr(job_events, "read", working)
        while (event := await anext(stream)) == KEEP_ALIVE:
            pass
        assert shown(event)["state"] == "running"
    await asyncio.to_thread(join_pollers, "jobs")
    messages = [r.message for r in caplog.records if r.name == poller.__name__]
    assert messages == [
        f"Jobs cannot be followed{cause}", "Jobs can be followed again.",
    ]  # fmt: skip


# --- for views


def test_reconnect_after_the_end_is_204():
    job = Job.objects.create(task="t", state="failed", finished_at=timezone.now())
    response = job_events.stream(job)
    assert shown(response.content)["state"] == "failed"
    assert not hasattr(response, "continuation")
    assert job_events.stream(job, "end").status_code == 204
    running = Job.objects.create(task="t", state="running")
    assert job_events.stream(running, "end").status_code == 200
