"""Files as responses."""

from collections.abc import Iterator
from itertools import chain

from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header


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
