"""Grouped reads: what no cache has is read from the database together.

A view that reads one row states in its policy how it reads many (`read_many`). While a
group is read, the next one gathers; a thread, a connection and a query serve all of it.
Django's own handling of requests is left out: the headers that all responses of the
view have are those of its last one through Django. That answers whatever is not plain:
the first request, rows that are absent, clients beyond their rate limit. A group that
fails fails as a whole.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from django.conf import settings
from django.db import (
    InterfaceError,
    InternalError,
    OperationalError,
    close_old_connections,
)

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.asgi_types import Headers
from resilient_site.edge.cache.gathering import Gatherer
from resilient_site.edge.cache.invalidation import receives_all_invalidations
from resilient_site.edge.policy import ReadMany, resolve_path
from resilient_site.edge.request import (
    ClientGone,
    EdgeRequest,
    Priority,
    RequestContext,
)
from resilient_site.edge.wsgi_bridge import Response
from resilient_site.errors import as_site_error
from resilient_site.observability.request_id import RequestIds, request_ids
from resilient_site.postgres.replicas import choose_replica, leave_replica
from resilient_site.ratelimit.middleware import may_read
from resilient_site.resilience import deadlines
from resilient_site.resilience.cache_control import Part

logger = logging.getLogger(__name__)

# Headers of one row; all others are the same for all.
OF_ONE = {
    b"content-length", b"etag", b"last-modified", b"link", b"cache-control",
    b"cache-tag", b"x-request-id", b"ratelimit", b"ratelimit-policy", b"set-cookie",
}  # fmt: skip


@dataclass(eq=False)
class Read:
    """One row that is to be read; the response is None if Django has to make it."""

    request: EdgeRequest
    context: RequestContext
    values: dict[str, str]
    response: "asyncio.Future[Response | None]"


@dataclass
class Reader:
    """The reads of one view in one class of priority."""

    read_many: ReadMany
    priority: Priority

    def __post_init__(self) -> None:
        self.reads = Gatherer(self._read)

    async def _read(self, group: Sequence[Read]) -> None:
        for read in group:
            if read.context.client_gone.is_set():
                read.response.set_exception(ClientGone)
        if not (group := [read for read in group if not read.response.done()]):
            return
        try:
            responses = await self._run_in_thread(group)
        except Exception as error:  # noqa: BLE001 - each of them waits for its end
            for read in group:
                read.response.set_exception(error)
        else:
            for read, response in zip(group, responses, strict=True):
                read.response.set_result(response)

    async def _run_in_thread(self, group: Sequence[Read]) -> Sequence[Response | None]:
        admission = wsgi_bridge.admission
        # The site's own, whatever one of the clients asks for.
        deadline = monotonic() + settings.DEADLINES_S["read"]
        running = await admission.enter(self.priority, deadline, deadlines.never)
        for read in group:
            read.context.was_admitted = True
        began, is_read = monotonic(), False
        try:
            loop, ids = asyncio.get_running_loop(), request_ids.get()
            responses = await loop.run_in_executor(
                wsgi_bridge.pool, _read_in_thread, self.read_many, group, deadline, ids
            )
            is_read = True
            return responses
        finally:
            # What a larger group takes says little about the load.
            is_typical = is_read and len(group) == 1
            took_s = monotonic() - began if is_typical else None
            admission.leave(self.priority, took_s, running)


readers: dict[tuple[ReadMany, Priority], Reader] = {}
# By route and scheme.
common_headers: dict[tuple[str, str], Headers] = {}


async def read(request: EdgeRequest, context: RequestContext) -> Response | None:
    """Return the response; None if Django has to make it. Raises SiteError."""
    read_many, match = request.policy.read_many, resolve_path(request.path)
    if read_many is None or match is None or request.query:
        return None
    if "\0" in request.path:  # PostgreSQL would refuse the query of the whole group
        return None
    if (request.policy.route, request.scope["scheme"]) not in common_headers:
        return None
    name = read_many, request.priority
    reader = readers.get(name)
    if reader is None:
        reader = readers[name] = Reader(*name)
    one = Read(
        request, context, match.kwargs, asyncio.get_running_loop().create_future()
    )
    reader.reads.add(one)
    return await one.response


def learn_headers(request: EdgeRequest, response: Response) -> None:
    """Learn from a response of Django's which headers all responses here have."""
    if request.policy.read_many is None or response.status != 200 or request.query:
        return
    common = [header for header in response.headers if header[0] not in OF_ONE]
    common_headers[request.policy.route, request.scope["scheme"]] = common


def _as_response(read: Read, part: Part) -> Response:
    request, context = read.request, read.context
    common = common_headers[request.policy.route, request.scope["scheme"]]
    length = (b"content-length", b"%d" % len(part.body))
    own = [(name.lower().encode(), v.encode("latin-1")) for name, v in part.headers]
    headers, tags = [*common, length, *own], " ".join(part.tags)
    of_replica = context.as_of, context.is_stale
    return Response(part.status, headers, tags, part.body, *of_replica)


def _read_in_thread(
    read_many: ReadMany, group: Sequence[Read], deadline: float, ids: RequestIds
) -> Sequence[Response | None]:
    lock_wait_s = settings.LOCK_WAITS_S["read"]
    deadlines.current.set(deadlines.Deadline(deadline, lock_wait_s=lock_wait_s))
    request_ids.set(ids)
    close_old_connections()
    is_of_user = not all(read.request.is_anonymous for read in group)
    try:
        of_replica = choose_replica(is_of_user and not receives_all_invalidations())
        for read in group:
            read.context.as_of, read.context.is_stale = of_replica
        may = [may_read(read.request.scope, read.request.client) for read in group]
        found = read_many([read.values for read in group])
        return [
            _as_response(read, part) if part and ok else None
            for read, part, ok in zip(group, found, may, strict=True)
        ]
    except (OperationalError, InternalError, InterfaceError) as error:
        raise as_site_error(error) from error
    except Exception:
        # Django meets it too, and reports it with its request.
        logger.exception("Reading many at once failed.")
        return [None] * len(group)
    finally:
        leave_replica()
        close_old_connections()
