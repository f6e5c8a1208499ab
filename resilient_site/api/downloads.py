"""Files as responses, and the parts of them that clients ask for."""

import re
from collections.abc import Iterator, Mapping
from itertools import chain

from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header

from resilient_site.errors import SiteError

_one_range = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})", re.IGNORECASE).fullmatch


class RangeNotSatisfiable(SiteError):
    status = 416
    code = "range_not_satisfiable"
    detail = "The file has none of the bytes that the header Range asks for."


def requested_range(headers: Mapping[str, str], size: int, etag: str) -> range | None:
    """Return which bytes to send (RFC 9110, section 14.2); None for the whole file.

    What is malformed, several ranges, or a range of another version of the file
    (If-Range) have the whole file sent. Raises RangeNotSatisfiable.
    """
    found = _one_range(headers.get("range", "").strip())
    if found is None or headers.get("if-range", etag) != etag:
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:  # the last bytes
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise RangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    return range(start, end)


def stream_file(
    pieces: Iterator[bytes], *, content_type: str, filename: str
) -> StreamingHttpResponse:
    """Return a response that reads the file, in a thread, while it is sent."""
    first = next(pieces, b"")  # before the response starts: a failure here is an error
    pieces = chain([first], pieces)
    headers = {"Content-Disposition": attachment(filename)}
    return StreamingHttpResponse(pieces, content_type=content_type, headers=headers)


def attachment(filename: str) -> str:
    """Return the Content-Disposition of a file to be saved under this name."""
    return content_disposition_header(True, filename) or "attachment"
