"""Responses with files of jobs, for REST and pages."""

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from compute import files
from compute.models import JobFile
from resilient_site.api.downloads import attachment, requested_range, stream_file


def download(request: HttpRequest | Request, file: JobFile) -> HttpResponseBase:
    """Return a response with the content of `file`, or the part that Range names."""
    response: HttpResponseBase
    etag = f'"{file.pk}-{file.size}"'  # a file is replaced or grows, never changed
    part = None
    if request.method == "GET":
        part = requested_range(request.headers, file.size, etag)
    sent = part or range(file.size)
    pieces = files.read(file, sent.start, sent.stop)
    if len(sent) <= files.CHUNK_BYTES:
        # Few reads: a slow client holds no thread.
        content = b"".join(pieces)
        response = HttpResponse(content, content_type=file.content_type)
        response["Content-Disposition"] = attachment(file.name)
    else:
        response = stream_file(
            pieces, content_type=file.content_type, filename=file.name
        )
    if part:
        response.status_code = 206
        response["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{file.size}"
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = etag
    response["Content-Length"] = str(len(sent))
    # A result never changes, and only its owner may see it.
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response
