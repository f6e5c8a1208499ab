"""Responses with files of jobs, for REST and pages."""

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from compute import files
from compute.models import JobFile
from resilient_site.api.downloads import attachment, stream_file


def download(file: JobFile) -> HttpResponseBase:
    """Return a response with the content of `file`."""
    response: HttpResponseBase
    if file.size <= files.CHUNK_BYTES:
        # One read: a slow client holds no thread.
        content = b"".join(files.read(file))
        response = HttpResponse(content, content_type=file.content_type)
        response["Content-Disposition"] = attachment(file.name)
    else:
        response = stream_file(
            files.read(file), content_type=file.content_type, filename=file.name
        )
    response["Content-Length"] = str(file.size)
    # A result never changes, and only its owner may see it.
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response
