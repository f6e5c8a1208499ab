"""How one web process makes way for a new one, and no request is dropped between them.

A process that has answered enough, or grown too large, has the master start another
one beside it. When that one accepts connections, the old one accepts no more, tells its
clients with their next answer to connect anew, and ends with its last connection.
"""

import fcntl
import logging
import mmap
import os
import random
import signal
import struct
import tempfile

from resilient_site.observability import memory_usage

logger = logging.getLogger(__name__)

# Of the limits, so that the processes do not come to them at the same time.
LOWEST_SHARE = 0.8
# One that is too large from the start would be replaced for ever.
LEAST_GROWTH = 1.25


class Succession:
    """What all web processes know of it. Made before the fork.

    One process at a time makes way: it has the lock until it ends.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._lock = os.dup(file.fileno())
        self._shared = mmap.mmap(-1, 16)

    def claim(self) -> bool:
        """Take the turn to make way, unless another process has it."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self._write(0, os.getpid())
        return True

    def has_left(self, pid: int) -> bool:
        """Tell whether this process, which has ended, had made way. In the master."""
        if self._read(0) != pid:
            return False
        self._write(0, 0)
        return True

    def announce(self) -> None:
        """Say that this process accepts connections."""
        self._write(8, os.getpid())

    def newest(self) -> int:
        return self._read(8)

    def _read(self, offset: int) -> int:
        return int(struct.unpack_from("Q", self._shared, offset)[0])

    def _write(self, offset: int, pid: int) -> None:
        struct.pack_into("Q", self._shared, offset, pid)


class Term:
    """How long one process serves. With 0 a limit is none."""

    def __init__(self, succession: Succession, requests: int, size: int) -> None:
        share = random.uniform(LOWEST_SHARE, 1)  # noqa: S311 - no secret
        self.most_requests = requests * share
        self.most_bytes = max(
            size * share, memory_usage.resident_bytes() * LEAST_GROWTH
        )
        if not size:
            self.most_bytes = 0
        self._succession = succession
        self._newest: int | None = None

    def is_over(self, requests: int) -> bool:
        """Tell whether another process is there in place of this one; see to it."""
        if self._newest is None:
            reason = self._reason(requests)
            if reason is None or not self._succession.claim():
                return False
            logger.info("This process has %s: it makes way for a new one.", reason)
            self._newest = self._succession.newest()
            os.kill(os.getppid(), signal.SIGTTIN)
        return self._succession.newest() != self._newest

    def _reason(self, requests: int) -> str | None:
        if self.most_requests and requests >= self.most_requests:
            return f"answered {requests:,} requests"
        size = memory_usage.resident_bytes()
        if self.most_bytes and size > self.most_bytes:
            return f"grown to {size // 1024 // 1024:,} MiB"
        return None


succession = Succession()
