"""Request bodies: received whole before the request takes a thread.

A client that sends too slowly gets 408, one that sends more than its view allows 413
(from Django, which does not read it). Where the disk has no room for a large body, the
answer is 503.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from tempfile import SpooledTemporaryFile
from typing import IO

from django.conf import settings

from resilient_site.edge.asgi_types import Receive
from resilient_site.edge.request import SESSION_COOKIE, EdgeRequest, content_length
from resilient_site.errors import SiteError, Unavailable

logger = logging.getLogger(__name__)

# A client that sends or reads nothing for so long is given up.
IDLE_S = 30
# And one that sends less than this many bytes a second, a while after it began.
SLOWEST_BYTES_PER_S = 1024
IN_MEMORY_BYTES = 1024 * 1024


class TooSlow(SiteError):
    status = 408
    code = "too_slow"
    detail = "The body of the request did not arrive in time. Nothing was changed."


class ClientGone(Exception):
    """The client has closed the connection."""


@asynccontextmanager
async def received_body(
    request: EdgeRequest, receive: Receive
) -> AsyncIterator[IO[bytes] | None]:
    """Receive the body whole; None if there is none.

    Raises TooSlow, ClientGone, or Unavailable if there is no room to keep it.
    """
    if not request.has_body:
        yield None
        return
    body = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed below
    try:
        if _is_acceptable(request):
            await _receive(request, receive, body)
        yield body
    finally:
        # Where the disk is full it fails to write out what is to be thrown away.
        with suppress(OSError):
            body.close()


async def _receive(request: EdgeRequest, receive: Receive, body: IO[bytes]) -> None:
    more, loop = True, asyncio.get_running_loop()
    length = int(request.headers[b"content-length"])
    latest = loop.time() + IDLE_S + length / SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout_at(latest) as limit:
            while more:
                limit.reschedule(min(loop.time() + IDLE_S, latest))
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body.write(message.get("body", b""))
                more = message.get("more_body", False)
        body.flush()
    except TimeoutError:
        raise TooSlow from None
    except OSError as error:
        logger.exception("A body could not be kept.")
        raise Unavailable from error


def _is_acceptable(request: EdgeRequest) -> bool:
    """Return whether Django will read the body; it rejects the others unread.

    Only a form of a client that sends credentials may have more than MAX_BODY_BYTES,
    where the policy of the view says so.
    """
    headers = request.headers
    length = content_length(headers.get(b"content-length", b""))
    known = request.has_authorization or SESSION_COOKIE in headers.get(b"cookie", b"")
    is_form = headers.get(b"content-type", b"").startswith(b"multipart/form-data")
    name = request.policy.form_limit if known and is_form else "MAX_BODY_BYTES"
    limit: int = getattr(settings, name)
    return length <= limit
