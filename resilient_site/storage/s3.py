"""Objects of S3, read in ranges: django-storages downloads the whole first."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.core.files import File
from storages.backends.s3 import S3Storage

from resilient_site.resilience.chunks import seekable

BLOCK_BYTES = 4 * 1024 * 1024
# A thread of a request, and the supervisor of the pool, wait no longer.
CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS = 2, 4, 2


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise OSError(errno.EIO, str(error)) from error


class ObjectStorage(S3Storage):  # type: ignore[misc]
    """django-storages' storage; raises OSError, and opens files to read alone."""

    def __init__(self, **options: Any) -> None:
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPTS},
            s3={"addressing_style": options.get("addressing_style", "auto")},
            # Some servers that are not Amazon's know no other ones.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # A part at a time in memory.
        transfer = TransferConfig(use_threads=False)
        super().__init__(**options, client_config=config, transfer_config=transfer)

    def _open(self, name: str, mode: str = "rb") -> "File[bytes]":
        with _as_os_error():
            found = self.bucket.Object(self._normalize_name(name))
            size = found.content_length

        def read_block(place: int) -> tuple[int, memoryview]:
            end = min(place + BLOCK_BYTES, size)
            with _as_os_error():
                body = found.get(Range=f"bytes={place}-{end - 1}")["Body"]
                return place, memoryview(body.read())

        return File(seekable(size, read_block))

    def _save(self, name: str, content: Any) -> str:
        with _as_os_error():
            return str(super()._save(name, content))

    def delete(self, name: str) -> None:
        with _as_os_error():
            super().delete(name)

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        with _as_os_error():
            folders, files = super().listdir(path)
            return folders, files
