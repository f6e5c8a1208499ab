"""Following jobs: server-sent events, and requests that wait for the end of a job.

All who watch in one web process share one query a tick, in a thread of its own; where
nobody watches there is none. A watcher is told changes, and only the latest state is
kept for him, however slowly he reads. While the database fails or hangs, streams stay
open, kept alive by comments, and go on with what has changed when it is back.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from django.http import HttpResponse

from compute.models import Job
from resilient_site.edge.streaming import Stream, Wait
from resilient_site.resilience.poller import Poller

TICK_S = 0.2
# Well below the time after which proxies take a connection for dead.
KEEP_ALIVE_S = 15.0

RETRY = b"retry: 2000\n\n"
KEEP_ALIVE = b":\n\n"
# The id of a job's last event: a browser that comes back with it is sent away.
END_ID = "end"
FIELDS = ("id", "state", "fraction", "message", "attempts")

# The values of FIELDS; empty if nothing is known yet, None if there is no such job.
type State = Mapping[str, Any]


def snapshot(state: State) -> dict[str, Any]:
    """Return a job as its events show it."""
    return {
        "id": state["id"],
        "state": state["state"],
        "progress": {"fraction": state["fraction"], "message": state["message"]},
        "attempts": state["attempts"],
    }


def is_final(state: State | None) -> bool:
    return bool(state and state["state"] not in Job.UNFINISHED)


def frame(state: State) -> bytes:
    """Return the state as one event."""
    event_id = f"id: {END_ID}\n" if is_final(state) else ""
    data = orjson.dumps(snapshot(state)).decode()
    return f"event: job\n{event_id}data: {data}\n\n".encode()


def read(job_ids: Iterable[UUID]) -> dict[UUID, State]:
    rows = Job.objects.filter(pk__in=job_ids).values(*FIELDS)
    return {row["id"]: row for row in rows}


@dataclass(eq=False)
class Watch:
    """One who watches a job, and the latest that is known of it."""

    job_id: UUID
    state: State | None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def change(self, timeout_s: float | None) -> bool:
        """Wait for the next change; False if there is none for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.changed.wait()
        except TimeoutError:
            return False
        self.changed.clear()
        return True


class Watcher:
    """Watches jobs for all requests of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._poller = Poller[Watch](loop, "Jobs", TICK_S, lambda: self._ask)

    async def events(self, job_id: UUID, known: State) -> AsyncGenerator[bytes]:
        """Yield the events of a job, from `known` to its end or its deletion."""
        with self._watching(job_id, known) as watch:
            state: State | None = known
            yield RETRY + frame(known)
            while not is_final(state):
                if not await watch.change(KEEP_ALIVE_S):
                    yield KEEP_ALIVE
                    continue
                if (state := watch.state) is None:
                    return
                yield frame(state)

    async def finished(self, job_id: UUID) -> None:
        """Return when a job has ended, or is not there."""
        with self._watching(job_id, {}) as watch:
            while watch.state is not None and not is_final(watch.state):
                await watch.change(None)

    def _watching(self, job_id: UUID, known: State) -> AbstractContextManager[Watch]:
        return self._poller.wanted_by(Watch(job_id, known))

    def _ask(self) -> None:
        watches = self._poller.everybody()
        states = read({watch.job_id for watch in watches})
        self.loop.call_soon_threadsafe(_tell, watches, states)


def _tell(watches: Iterable[Watch], states: Mapping[UUID, State]) -> None:
    for watch in watches:
        state = states.get(watch.job_id)
        if state != watch.state:
            watch.state = state
            watch.changed.set()


_watcher: Watcher | None = None


def watcher() -> Watcher:
    """Return that of the running event loop, made at its first use: after any fork."""
    global _watcher
    loop = asyncio.get_running_loop()
    if _watcher is None or _watcher.loop is not loop:
        _watcher = Watcher(loop)
    return _watcher


# --- for views


def stream(job: Job, last_event_id: str | None = None) -> HttpResponse:
    """Answer with the events of `job`; `last_event_id` is from the request's header.

    By itself the response is the present state, to be asked for again.
    """
    job_id, known = job.pk, {name: getattr(job, name) for name in FIELDS}
    if job.is_finished and last_event_id == END_ID:
        return HttpResponse(status=204)  # the one way to stop an EventSource
    response = HttpResponse(RETRY + frame(known), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    if not job.is_finished:
        response.later = Stream(  # type: ignore[attr-defined]
            lambda: watcher().events(job_id, known)
        )
    return response


def wait(response: HttpResponse, job: Job, seconds: float) -> HttpResponse:
    """Let `response` wait for the end of `job`; the view is then asked again.

    It is when `later.waited_for(request)` is the id of the job.
    """
    job_id = job.pk
    response.later = Wait(  # type: ignore[attr-defined]
        lambda: watcher().finished(job_id), seconds, str(job_id)
    )
    return response
