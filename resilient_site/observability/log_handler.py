"""Log lines on their way out: each is written soon, and nobody waits for a reader.

In a process that serves, a thread writes. When whoever reads is stopped, the lines are
kept up to a bound; what comes beyond it is dropped, counted, and told of later.
"""

import atexit
import logging
import os
import select
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

logger = logging.getLogger(__name__)

MOST_WAITING = 2_000
# Where no thread writes, a line waits so long for its reader.
PATIENCE_MS = 1_000
LAST_WORDS_S = 1.0
# To be woken up for each line, or to hand over for each, would take time from those who
# answer. So much at a time is written whole, whoever else writes to the same pipe.
PAUSE_S = 0.01
WHOLE = select.PIPE_BUF


class Lines:
    def __init__(self, output: int = 2) -> None:
        self.output = output
        self._begin_anew()
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        # A thread does not come along into a child, nor does what it has to write.
        self._waiting: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.dropped = self._untold = 0

    def begin(self) -> None:
        """Write in a thread from here on."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="log-lines", daemon=True
            )
            self._thread.start()
            atexit.register(self.flush)

    def write(self, line: bytes) -> None:
        if self._thread is None:
            self._write_soon(line)
        elif self._waiting.qsize() < MOST_WAITING:
            self._waiting.put(line)
        else:
            self._drop()

    def flush(self, within_s: float = LAST_WORDS_S) -> bool:
        """Wait until all that was there is written; tell whether it is."""
        if self._thread is None:
            return True
        is_written = threading.Event()
        self._waiting.put(is_written)
        return is_written.wait(within_s)

    def _run(self) -> None:
        item: bytes | threading.Event | None = None
        while True:
            item = self._waiting.get() if item is None else item
            batch: list[bytes] = []
            size = 0
            while isinstance(item, bytes) and (not batch or size + len(item) <= WHOLE):
                batch.append(item)
                size += len(item)
                item = self._next()
            if batch:
                self._write(batch)
            if isinstance(item, threading.Event):
                item.set()
                item = None
            if self._untold and self._waiting.qsize() < MOST_WAITING // 2:
                with self._lock:
                    untold, self._untold = self._untold, 0
                logger.warning("%d log lines were dropped: nobody read them.", untold)
            if item is None and self._waiting.empty():
                time.sleep(PAUSE_S)

    def _next(self) -> bytes | threading.Event | None:
        with suppress(Empty):
            return self._waiting.get_nowait()
        return None

    def _write_soon(self, line: bytes) -> None:
        poll = select.poll()
        poll.register(self.output, select.POLLOUT)
        if poll.poll(PATIENCE_MS):
            self._write([line])
        else:
            self._drop()

    def _write(self, batch: Sequence[bytes]) -> None:
        try:
            os.write(self.output, b"".join(batch))
        except BlockingIOError:
            self._drop(len(batch))
        except OSError:
            pass  # nobody will ever read it

    def _drop(self, number: int = 1) -> None:
        with self._lock:
            self.dropped += number
            self._untold += number


lines = Lines()


class LinesHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(RecursionError):
            try:
                line = self.format(record)
            except Exception:  # noqa: BLE001 - a line must not break what it tells of
                line = f"A log line of {record.name} could not be made: {record.msg!r}"
            lines.write(f"{line}\n".encode(errors="backslashreplace"))
