"""FILES_URL: where the content of uploads and files of jobs is, beside the database."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

# Query of s3://BUCKET/PREFIX; credentials are where boto3 looks for them.
S3_OPTIONS = {"endpoint_url", "region_name", "addressing_style"}


def parse_storage(url: str) -> dict[str, Any] | None:
    """Return the entry of STORAGES; None for the database itself.

    Raises ImproperlyConfigured if the URL is malformed.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    path = unquote(parts.path)
    if url in ("", "database:"):
        return None
    if parts.scheme == "file" and path.startswith("/") and not parts.netloc:
        modes = {"file_permissions_mode": 0o600, "directory_permissions_mode": 0o700}
        backend = "django.core.files.storage.FileSystemStorage"
        return {"BACKEND": backend, "OPTIONS": {"location": path, **modes}}
    if parts.scheme == "s3" and parts.netloc and options.keys() <= S3_OPTIONS:
        place = {"bucket_name": parts.netloc, "location": path.strip("/")}
        backend = "resilient_site.storage.s3.ObjectStorage"
        return {"BACKEND": backend, "OPTIONS": place | options}
    raise ImproperlyConfigured(
        "FILES_URL is not database:, file:///FOLDER or "
        f"s3://BUCKET/PREFIX?{'=&'.join(sorted(S3_OPTIONS))}="
    )
