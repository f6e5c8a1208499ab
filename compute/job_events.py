"""Job events: server-sent events, and requests that wait for the end of a job.

All subscribers in a web process share one query every 0.2 s, in a thread that runs only
while there are any. A slow client receives only the latest state. While the database
fails or hangs, streams stay open with keep-alive comments, and continue with the
changes once it is back.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

import orjson
from django.http import HttpResponse

from compute import jobs
from compute.models import Job
from resilient_site.edge.streaming import (
    KEEP_ALIVE,
    KEEP_ALIVE_S,
    Wait,
    event_stream,
    is_set_within,
    one_per_loop,
)
from resilient_site.resilience.poller import Poller

TICK_S = 0.2
RETRY = b"retry: 2000\n\n"
# The id of a job's last event: a browser that reconnects with it gets a 204.
END_ID = "end"
FIELDS = ("id", "state", "fraction", "message", "attempts")

# The values of FIELDS; empty before the first query, None if there is no such job.
type State = Mapping[str, Any]


def is_final(state: State | None) -> bool:
    return bool(state and state["state"] not in Job.UNFINISHED)


def frame(state: State) -> bytes:
    """Return the state as one event."""
    event_id = f"id: {END_ID}\n" if is_final(state) else ""
    shown = {
        "id": state["id"],
        "state": state["state"],
        "progress": {"fraction": state["fraction"], "message": state["message"]},
        "attempts": state["attempts"],
    }
    data = orjson.dumps(shown).decode()
    return f"event: job\n{event_id}data: {data}\n\n".encode()


def read(job_ids: Iterable[UUID]) -> dict[UUID, State]:
    rows = Job.objects.filter(pk__in=job_ids).values(*FIELDS)
    return {row["id"]: row for row in rows}


@dataclass(eq=False)
class Subscription:
    """A subscription to a job, with its latest state."""

    job_id: UUID
    state: State | None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_change(self, timeout_s: float | None) -> bool:
        """Wait for the next change; return False after the timeout."""
        if has_changed := await is_set_within(self.changed, timeout_s):
            self.changed.clear()
        return has_changed


class JobWatcher:
    """Observes jobs for all requests of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._poller = Poller[Subscription](loop, "Jobs", TICK_S, lambda: self._poll)

    async def events(self, job_id: UUID, known: State) -> AsyncGenerator[bytes]:
        """Yield the events of a job after the state `known`, until it has finished."""
        with self._poller.subscribed(Subscription(job_id, known)) as subscription:
            state: State | None = known
            yield RETRY + frame(known)
            while not is_final(state):
                if not await subscription.wait_for_change(KEEP_ALIVE_S):
                    yield KEEP_ALIVE
                    continue
                if (state := subscription.state) is None:
                    return
                yield frame(state)

    async def finished(self, job_id: UUID) -> None:
        """Return when a job has finished or does not exist."""
        with self._poller.subscribed(Subscription(job_id, {})) as subscription:
            while (state := subscription.state) is not None and not is_final(state):
                await subscription.wait_for_change(None)

    def _poll(self) -> None:
        subscriptions = self._poller.subscribers()
        states = read({one.job_id for one in subscriptions})
        self.loop.call_soon_threadsafe(_publish, subscriptions, states)


def _publish(
    subscriptions: Iterable[Subscription], states: Mapping[UUID, State]
) -> None:
    for subscription in subscriptions:
        state = states.get(subscription.job_id)
        if state != subscription.state:
            subscription.state = state
            subscription.changed.set()


# Made after any fork.
watcher = one_per_loop(JobWatcher)


# --- for views


def stream(job: Job, last_event_id: str | None = None) -> HttpResponse:
    """Return a response that streams the events of `job`.

    Without the edge (under WSGI) it has only the current state, and the browser
    reconnects. `last_event_id` is the request's header.
    """
    job_id, known = job.pk, {name: getattr(job, name) for name in FIELDS}
    if job.is_finished and last_event_id == END_ID:
        return HttpResponse(status=204)  # stops an EventSource from reconnecting
    events = None if job.is_finished else lambda: watcher().events(job_id, known)
    return event_stream(RETRY + frame(known), events)


def wait(response: HttpResponse, job: Job, seconds: float, then: str) -> HttpResponse:
    """Delay `response` until `job` has finished; a GET of `then` takes its place.

    A job of an anonymous client is cancelled if the client does not wait for it.
    """
    job_id = job.pk
    waiting = Wait(lambda: watcher().finished(job_id), seconds, then)
    if job.anonymous_client:
        waiting = replace(waiting, if_left=partial(jobs.cancel_unawaited, job_id))
    response.continuation = waiting  # type: ignore[attr-defined]
    return response
