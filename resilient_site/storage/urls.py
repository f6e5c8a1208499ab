"""FILES_URL: where the content of uploads and files of jobs is, beside the database."""

import re
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

# Query of s3://BUCKET/PREFIX; credentials are where boto3 looks for them.
S3_OPTIONS = {"endpoint_url", "region_name", "addressing_style"}
ADDRESSING_STYLES = ("auto", "virtual", "path")
# As botocore has it: not, for one, with a user and password before it.
_is_bucket = re.compile(r"[a-zA-Z0-9._-]{1,255}").fullmatch
_is_endpoint = re.compile(r"https?://[^/].*").fullmatch


def parse_storage(url: str) -> dict[str, Any] | None:
    """Return the entry of STORAGES; None for the database itself.

    Raises ImproperlyConfigured if the URL is malformed.
    """
    if url in ("", "database:"):
        return None
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError as error:
        raise _malformed() from error
    path, options = unquote(parts.path), dict(pairs)
    # What is no path, such as a `#` that was not escaped, would name another one.
    is_path = not parts.fragment and "\0" not in path
    if parts.scheme == "file" and is_path and _is_folder(parts, path):
        modes = {"file_permissions_mode": 0o600, "directory_permissions_mode": 0o700}
        backend = "django.core.files.storage.FileSystemStorage"
        return {"BACKEND": backend, "OPTIONS": {"location": path, **modes}}
    if parts.scheme == "s3" and is_path and _is_s3(parts, path, options):
        place = {"bucket_name": parts.netloc, "location": path.strip("/")}
        backend = "resilient_site.storage.s3.ObjectStorage"
        return {"BACKEND": backend, "OPTIONS": place | options}
    raise _malformed()


def _is_folder(parts: SplitResult, path: str) -> bool:
    return path.startswith("/") and not parts.netloc and not parts.query


def _is_s3(parts: SplitResult, path: str, options: dict[str, str]) -> bool:
    names = path.strip("/").split("/") if path.strip("/") else []
    return (
        _is_bucket(parts.netloc) is not None
        # django-storages refuses to store below such a prefix.
        and not {"", ".", ".."} & {*names}
        and options.keys() <= S3_OPTIONS
        and _is_endpoint(options.get("endpoint_url", "https://of-amazon")) is not None
        and options.get("addressing_style", "auto") in ADDRESSING_STYLES
    )


def _malformed() -> ImproperlyConfigured:
    return ImproperlyConfigured(
        "FILES_URL is not database:, file:///FOLDER or "
        f"s3://BUCKET/PREFIX?{'=&'.join(sorted(S3_OPTIONS))}="
    )
