"""Files that are stored in the database in chunks: every machine can read them.

The tables are those of the apps. The row of a file has its size, whether it is
complete, and `chunks`, each with its offset and data.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

CHUNK_BYTES = 1024 * 1024


class StoredFile(Protocol):
    """What the row of a file has."""

    size: Any
    complete: Any
    location: Any

    @property
    def chunks(self) -> Any: ...

    def save(self, *, update_fields: list[str]) -> None: ...


class Writer:
    """Writer of a file that is not complete before it is closed."""

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        self._buffer = bytearray()

    def write(self, data: bytes) -> int:
        self._buffer += data
        while len(self._buffer) >= CHUNK_BYTES:
            self._append(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]
        return len(data)

    def flush(self) -> None:
        """Do nothing: required of a file object."""

    def close(self) -> None:
        """Write the buffer and mark the file complete."""
        if self._buffer:
            self._append(bytes(self._buffer))
        self.file.complete = True
        self.file.save(update_fields=["size", "complete"])

    def _append(self, data: bytes) -> None:
        self.file.chunks.create(offset=self.file.size, data=data)
        self.file.size += len(data)


def append(file: StoredFile, data: bytes) -> int:
    """Append to a file, in the caller's transaction; return its new size."""
    file.chunks.create(offset=file.size, data=data)
    file.size += len(data)
    file.save(update_fields=["size"])
    size: int = file.size
    return size


def read(file: StoredFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of `file` from `start` to `end`, one chunk in memory.

    Raises EOFError if chunks are missing.
    """
    end = file.size if end is None else end
    while start < end:
        offset, data = _chunk_at(file, start)
        yield bytes(data[start - offset : end - offset])
        start = offset + len(data)


def open_file(file: StoredFile) -> io.BufferedReader:
    """Return a seekable stream of the content, which holds one chunk in memory."""
    return seekable(file.size, partial(_chunk_at, file))


def seekable(
    size: int, piece_at: Callable[[int], tuple[int, memoryview]]
) -> io.BufferedReader:
    """Return a stream of pieces: `piece_at` has that of a place, and its offset."""
    return io.BufferedReader(_Reader(size, piece_at))


def _chunk_at(file: StoredFile, place: int) -> tuple[int, memoryview]:
    """Return the chunk with the byte at `place`, and its offset."""
    chunks = file.chunks.filter(offset__lte=place).order_by("-offset")
    found = chunks.values_list("offset", "data").first()
    offset, data = found or (0, b"")
    if place >= offset + len(data):
        raise EOFError(f"{file} ends at {place} of {file.size} bytes.")
    return offset, memoryview(data)


class _Reader(io.RawIOBase):
    def __init__(
        self, size: int, piece_at: Callable[[int], tuple[int, memoryview]]
    ) -> None:
        self._size, self._piece_at, self._place = size, piece_at, 0
        self._offset, self._data = 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = max(0, base[whence] + place)
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._size:
            return 0
        if not 0 <= self._place - self._offset < len(self._data):
            self._offset, self._data = self._piece_at(self._place)
        start = self._place - self._offset
        piece = self._data[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)
