"""Files of jobs as answers, for REST and pages."""

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from compute import files
from compute.models import JobFile
from resilient_site.api.downloads import attachment, stream_file

# Shown on the page, not downloaded; its own rules let it do nothing but be seen.
SHOWN = {"image/svg+xml"}
SHOWN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


def download(file: JobFile) -> HttpResponseBase:
    """Answer with `file`."""
    response: HttpResponseBase
    if file.size <= files.CHUNK_BYTES:
        # One read: no need to hold a thread for a slow client.
        content = b"".join(files.read(file))
        response = HttpResponse(content, content_type=file.content_type)
        if file.content_type not in SHOWN:
            response["Content-Disposition"] = attachment(file.name)
    else:
        response = stream_file(
            files.read(file), content_type=file.content_type, filename=file.name
        )
    response["Content-Length"] = str(file.size)
    if file.content_type in SHOWN:
        response["Content-Security-Policy"] = SHOWN_POLICY
    # A result never changes, and is its owner's only.
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response
