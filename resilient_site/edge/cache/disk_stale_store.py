"""The last known answers, on the disk, for the day when no new ones can be had.

All web processes of this machine share them, and they outlive every process: a worker
that starts while the database is away can still answer what others were told before.
What one client was told is kept for him alone, under a digest of what he is known by.

Losing this file costs nothing but that, so it is written behind the answers, without
waiting for the disk, and made anew when it is damaged.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from zlib import crc32

import orjson

from resilient_site.edge.cache.bloom_filter import Hints
from resilient_site.edge.cache.cached_response import Copy, vary_of
from resilient_site.edge.cache.invalidation import Mark, boot_id
from resilient_site.resilience.bounded_dict import Latest
from resilient_site.resilience.cache_control import STALE_IF_ERROR_S

logger = logging.getLogger(__name__)

WAITING_MAX = 1_000
WAITING_BYTES_MAX = 16 * 1024 * 1024
BATCH = 100
GATHER_S = 0.2
# Of all the room, what one batch may take, and how full it may be before that.
BATCH_SHARE = 0.1
FULL_SHARE = 0.8
# What was written a moment ago is not written again.
AGAIN_S = 30
NOTED_MAX = 20_000
TIMEOUT_S = 1.0
STOP_S = 5.0
HINTS_OVERLAP_S = 10.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS copies (
    key TEXT PRIMARY KEY, stored_at REAL, size INTEGER, about BLOB, body BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS copies_by_age ON copies (stored_at);
"""
OLDEST_QUARTER = """
DELETE FROM copies WHERE stored_at <= (
    SELECT stored_at FROM copies ORDER BY stored_at LIMIT 1
    OFFSET (SELECT count(*) / 4 FROM copies)
)
"""

type Entry = tuple[str, Copy | None]


class LastKnown:
    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._waiting: queue.Queue[Entry | None] = queue.Queue(WAITING_MAX)
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._written = Latest[str, tuple[int, float]](NOTED_MAX, "Noted as written")
        self._readers: ThreadPoolExecutor | None = None
        self._writer: threading.Thread | None = None
        self._hints = Hints()

    def start(self) -> None:
        self._ending.clear()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="last-known-reader")
        self._writer = threading.Thread(
            target=self._write, name="last-known-writer", daemon=True
        )
        self._writer.start()

    def stop(self) -> None:
        """Write what is left, unless the disk does not answer."""
        self._ending.set()
        if self._writer:
            with suppress(queue.Full):
                self._waiting.put(None, timeout=STOP_S)
            self._writer.join(STOP_S)
        if self._readers:
            self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer = self._readers = None

    def keep(self, key: str, copy: Copy) -> None:
        """Keep the copy soon; when there is too much to write, it is not kept."""
        digest, now = hash(copy.body), time.monotonic()
        last = self._written.get(key)
        if last and last[0] == digest and now - last[1] < AGAIN_S:
            return
        if copy.size <= BATCH_SHARE * self.max_bytes and self._put(key, copy):
            self._written[key] = digest, now
            self._hints.add(key)

    def forget(self, key: str) -> None:
        """Keep it no longer: it does not hold any more."""
        self._written.pop(key, None)
        self._put(key, None)

    def _put(self, key: str, copy: Copy | None) -> bool:
        size = _size(copy)
        with self._lock:
            if self._waiting_bytes + size > WAITING_BYTES_MAX:
                return False
            try:
                self._waiting.put_nowait((key, copy))
            except queue.Full:
                return False
            self._waiting_bytes += size
        return True

    def may_have(self, key: str) -> bool:
        """Tell at once whether it is worth while to look."""
        if self._readers and self._hints.is_to_be_read():
            self._readers.submit(self._read_hints)
        return self._hints.may_have(key)

    async def get(self, key: str) -> Copy | None:
        if self._readers is None:
            return None
        loop = asyncio.get_running_loop()
        found = loop.run_in_executor(self._readers, self._read, key)
        with suppress(TimeoutError):
            return await asyncio.wait_for(found, TIMEOUT_S)
        return None

    def is_empty(self) -> bool:
        """Tell whether there is nothing to show; waits for the disk."""
        return not self._ask("SELECT EXISTS (SELECT 1 FROM copies)")

    def count(self) -> int:
        """Return how many copies there are; waits for the disk."""
        return self._ask("SELECT count(*) FROM copies")

    def _ask(self, query: str) -> int:
        if not self.path.exists():
            return 0
        try:
            with closing(self._connect()) as connection:
                return int(connection.execute(query).fetchone()[0])
        except sqlite3.Error:
            return 0

    def size(self) -> int:
        """Return how many bytes it has on the disk."""
        files = (Path(f"{self.path}{suffix}") for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _read(self, key: str) -> Copy | None:
        try:
            with closing(self._connect()) as connection:
                query = "SELECT stored_at, about, body FROM copies WHERE key = ?"
                row = connection.execute(query, [key]).fetchone()
            return load(*row) if row else None
        except sqlite3.OperationalError:
            return None  # not there yet, or in another's hands
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            logger.warning("The last known answers cannot be read: %s", error)
            return None

    def _read_hints(self) -> None:
        if not self.path.exists():
            self._hints.note_all([])
            return
        query = "SELECT key, stored_at FROM copies WHERE stored_at > ?"
        # A batch is there later than its copies were made.
        since = self._hints.stored_at - HINTS_OVERLAP_S
        with suppress(sqlite3.Error), closing(self._connect()) as connection:
            self._hints.note_all(connection.execute(query, [since]).fetchall())

    def _write(self) -> None:
        is_over = False
        while not is_over:
            batch, is_over = self._next_batch()
            try:
                if batch:
                    self._write_batch(batch)
            # No room, or another's lock: the next ones may fit.
            except (sqlite3.OperationalError, OSError) as error:
                logger.warning("The last known answers cannot be written: %s", error)
            except sqlite3.DatabaseError as error:
                logger.warning("The last known answers are made anew: %s", error)
                self._delete()

    def _write_batch(self, batch: list[Entry]) -> None:
        self.path.touch(mode=0o600)
        with closing(self._connect()) as connection, connection:
            connection.executescript(SCHEMA)
            self._make_room(connection)
            connection.executemany(
                "DELETE FROM copies WHERE key = ?",
                [(key,) for key, copy in batch if copy is None],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?, ?)",
                [dump(key, copy) for key, copy in batch if copy],
            )

    def _next_batch(self) -> tuple[list[Entry], bool]:
        """Wait for something to write; tell besides whether it is the last."""
        entry = self._waiting.get()
        # To write each by itself would take longer than to answer, and to be woken up
        # by each takes time from those who do.
        if self._waiting.qsize() < BATCH:
            self._ending.wait(GATHER_S)
        batch: dict[str, Copy | None] = {}
        size = 0
        while entry:
            key, copy = entry
            batch[key] = copy  # of one key the last word counts
            size += _size(copy)
            if size > BATCH_SHARE * self.max_bytes or len(batch) == BATCH:
                break
            try:
                entry = self._waiting.get_nowait()
            except queue.Empty:
                break
        with self._lock:
            self._waiting_bytes -= size
        return list(batch.items()), entry is None

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self.path}{suffix}").unlink()

    def _connect(self) -> sqlite3.Connection:
        url = f"{self.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(url, timeout=TIMEOUT_S, uri=True)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Delete what is too old to be shown, and the oldest if there is too much."""

        def ask(pragma: str) -> int:
            answer: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
            return answer

        expired = "DELETE FROM copies WHERE stored_at < ?"
        connection.execute(expired, [time.time() - STALE_IF_ERROR_S])
        page_bytes = ask("page_size")
        connection.execute(f"PRAGMA max_page_count = {self.max_bytes // page_bytes}")
        most = FULL_SHARE * self.max_bytes
        while (ask("page_count") - ask("freelist_count")) * page_bytes > most:
            if connection.execute(OLDEST_QUARTER).rowcount == 0:
                return


def _size(copy: Copy | None) -> int:
    return copy.size if copy else 0


def dump(key: str, copy: Copy) -> tuple[str, float, int, bytes, bytes]:
    about = {
        "headers": [
            (n.decode("latin-1"), v.decode("latin-1")) for n, v in copy.headers
        ],
        "limits": (copy.fresh_s, copy.stale_while_revalidate_s, copy.stale_if_error_s),
        "mark": (copy.mark.at, copy.mark.slots),
        "boot": boot_id(),
        "check": crc32(copy.body),
    }
    return key, copy.stored_at, copy.size, orjson.dumps(about), copy.body


def load(stored_at: float, about: bytes, body: bytes) -> Copy:
    told = orjson.loads(about)
    if told["check"] != crc32(body):
        raise ValueError("The body is damaged.")
    at, slots = told["mark"]
    if told["boot"] != boot_id():
        at = 0  # of a clock that began anew: outdated
    headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in told["headers"]]
    fresh_s, meanwhile_s, if_error_s = told["limits"]
    by_name = dict(headers)
    return Copy(
        headers=headers,
        body=body,
        fresh_s=fresh_s,
        stale_while_revalidate_s=meanwhile_s,
        stale_if_error_s=if_error_s,
        mark=Mark(at, tuple(slots)),
        vary=vary_of(by_name),
        stored_at=stored_at,
        stored=time.monotonic() - max(time.time() - stored_at, 0.0),
        etag=by_name.get(b"etag"),
        modified=by_name.get(b"last-modified"),
    )
