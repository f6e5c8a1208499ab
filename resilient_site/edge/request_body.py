"""Request bodies: received whole before the request takes a thread.

All that a client can know is checked before the first byte is asked for, which is when
`Expect: 100-continue` is answered: the limit of the view, whether the client may send
as much, and whether there is room. A body of unknown length, or one that is compressed,
meets the same limits as it comes, and Django is given its size unpacked. A client that
sends too slowly gets 408; where the disk has no room for a large body it gets 503.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from tempfile import SpooledTemporaryFile
from typing import IO

from django.conf import settings

from resilient_site.edge.admission import Admission, Quota
from resilient_site.edge.asgi_types import Receive
from resilient_site.edge.request import ClientGone, EdgeRequest, content_length
from resilient_site.errors import Invalid, SiteError, TooLarge, Unavailable
from resilient_site.resilience import breakers

# A client that sends or reads nothing for so long is given up.
IDLE_S = 30
# And one that sends fewer bytes a second, a while after it began; or for so long.
SLOWEST_BYTES_PER_S = 16 * 1024
LONGEST_S = 600
IN_MEMORY_BYTES = 1024 * 1024
# Larger ones only from clients with a valid token or session.
UNVERIFIED_BYTES = 1024 * 1024
UNPACKED_PIECE_BYTES = 256 * 1024
GZIP_WINDOW = 16 + zlib.MAX_WBITS


class TooSlow(SiteError):
    status = 408
    code = "too_slow"
    detail = "The body of the request did not arrive in time. Nothing was changed."


class UnknownEncoding(SiteError):
    status = 415
    code = "unsupported_content_encoding"
    detail = "A body may be compressed by gzip, and by nothing else."


class Body:
    """A body under way: what has come of it, and how much may come."""

    def __init__(
        self,
        request: EdgeRequest,
        admission: Admission,
        is_verified: Callable[[], Awaitable[bool]],
    ) -> None:
        self._request, self._admission = request, admission
        self._is_verified = is_verified
        self._has_valid_credential = False
        # Else anonymous clients could fill the room of those who are signed in.
        self._quota: Quota = (
            admission.bodies if request.is_recognized else admission.unverified_bodies
        )
        content_type = request.headers.get(b"content-type", b"")
        is_form = content_type.startswith(b"multipart/form-data")
        name = request.policy.form_limit if is_form else "MAX_BODY_BYTES"
        self.largest: int = getattr(settings, name)
        self.size = 0
        self.file = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - see close

    async def check(self, more: float) -> None:
        """Raise TooLarge, or an error of the quota, unless so much more may come."""
        size, client = self.size + more, self._request.client
        is_large = size > UNVERIFIED_BYTES
        if size > self.largest:
            raise TooLarge(
                f"The body may have at most {self.largest:,} bytes. Nothing was "
                "changed."
            )
        needs_check = is_large or not self._quota.has_room(client, int(more))
        if needs_check and not self._has_valid_credential:
            self._has_valid_credential = await self._is_verified()
            if self._has_valid_credential:
                self._quota.give_back(client, self.size)
                self._quota = self._admission.bodies
                self._quota.take(client, self.size)
            elif is_large:
                raise TooLarge(
                    f"A body of more than {UNVERIFIED_BYTES:,} bytes needs a valid "
                    "token or session. Nothing was changed."
                )
        self._quota.check(client, int(more))

    async def receive(self, receive: Receive, length: float) -> None:
        """Receive all of it; `length` is what was announced."""
        more, loop = True, asyncio.get_running_loop()
        began = loop.time()
        latest = began + min(IDLE_S + length / SLOWEST_BYTES_PER_S, LONGEST_S)
        unpack = _unpacker(self._request)
        try:
            async with asyncio.timeout_at(latest) as limit:
                while more:
                    limit.reschedule(min(loop.time() + IDLE_S, latest))
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    more = message.get("more_body", False)
                    for piece in unpack(message.get("body", b""), not more):
                        await self.check(len(piece))
                        self._quota.take(self._request.client, len(piece))
                        self.size += len(piece)
                        self.file.write(piece)
                        if len(piece) == UNPACKED_PIECE_BYTES:
                            await asyncio.sleep(0)  # for the other requests
            self.file.flush()
        except TimeoutError:
            raise TooSlow from None
        except OSError as error:
            breakers.disk.degrade(error)
            raise Unavailable(
                "The disk of the site has no room for the body. Nothing was changed."
            ) from error
        # The time that the client took is not the site's.
        self._request.deadline += loop.time() - began

    def close(self) -> None:
        self._quota.give_back(self._request.client, self.size)
        # Where the disk is full it fails to write out what is to be thrown away.
        with suppress(OSError):
            self.file.close()


@asynccontextmanager
async def received_body(
    request: EdgeRequest,
    receive: Receive,
    admission: Admission,
    is_verified: Callable[[], Awaitable[bool]],
) -> AsyncIterator[IO[bytes] | None]:
    """Receive the body whole; None if there is none.

    Raises the errors of `Body`, ClientGone, TooSlow, UnknownEncoding, or Unavailable if
    there is no room to keep it.
    """
    if not request.has_body:
        yield None
        return
    is_chunked = b"transfer-encoding" in request.headers
    if is_chunked:
        check_framing(request)
    announced = request.headers.get(b"content-length", b"0")
    length = 0 if is_chunked else content_length(announced)
    body = Body(request, admission, is_verified)
    try:
        await body.check(length)
        await body.receive(receive, body.largest if is_chunked else length)
        request.set_content_length(body.size)
        yield body.file
    finally:
        body.close()


def check_framing(request: EdgeRequest) -> None:
    """Reject what another server may read in another way (RFC 9112, section 6.1)."""
    is_clear = (
        request.headers[b"transfer-encoding"].lower() == b"chunked"
        and b"content-length" not in request.headers
        and request.scope["http_version"] != "1.0"
    )
    if not is_clear:
        raise Invalid(
            "The body's Transfer-Encoding may be chunked, and nothing else. Nothing "
            "was changed.",
            headers={"Connection": "close"},
        )


def _unpacker(request: EdgeRequest) -> Callable[[bytes, bool], Iterator[bytes]]:
    encoding = request.headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding in (b"gzip", b"x-gzip"):
        return Gunzip()
    if encoding != b"identity":
        raise UnknownEncoding(headers={"Accept-Encoding": "gzip"})
    return lambda piece, is_last: iter((piece,))


class Gunzip:
    """Unpacks gzip in small pieces, of which the caller takes as many as it allows."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP_WINDOW)
        self._has_begun = False

    def __call__(self, data: bytes, is_last: bool) -> Iterator[bytes]:
        try:
            while data:
                if self._member.eof:  # gzip files may be joined
                    self._member = zlib.decompressobj(GZIP_WINDOW)
                self._has_begun = True
                yield self._member.decompress(data, UNPACKED_PIECE_BYTES)
                data = self._member.unconsumed_tail or self._member.unused_data
            if is_last and self._has_begun:
                yield self._member.flush(UNPACKED_PIECE_BYTES)
        except zlib.error as error:
            raise Invalid("The body is not gzip, or it is damaged.") from error
        if is_last and not self._member.eof:
            raise Invalid("The body is not gzip, or its end is missing.")
