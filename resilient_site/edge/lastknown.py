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
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import orjson

from resilient_site.edge.copies import Copy
from resilient_site.resilience.generations import Mark, boot_id

logger = logging.getLogger(__name__)

WAITING_MAX = 1_000
BATCH = 100
# What was written a moment ago is not written again.
AGAIN_S = 30
NOTED_MAX = 20_000
ROOM_CHECK_S = 30
TIMEOUT_S = 1.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS copies (
    key TEXT PRIMARY KEY, stored_at REAL, size INTEGER, about BLOB, body BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS copies_by_age ON copies (stored_at);
"""


class LastKnown:
    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._waiting: queue.Queue[tuple[str, Copy] | None] = queue.Queue(WAITING_MAX)
        self._written: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="last-known-reader")
        self._writer: threading.Thread | None = None

    def start(self) -> None:
        self._writer = threading.Thread(
            target=self._write, name="last-known-writer", daemon=True
        )
        self._writer.start()

    def stop(self) -> None:
        if self._writer:
            self._waiting.put(None)
            self._writer.join()
        self._readers.shutdown()

    def keep(self, key: str, copy: Copy) -> None:
        """Keep the copy soon; when there is too much to write, it is not kept."""
        digest, now = hash(copy.body), time.monotonic()
        last = self._written.get(key)
        if last and last[0] == digest and now - last[1] < AGAIN_S:
            return
        with suppress(queue.Full):
            self._waiting.put_nowait((key, copy))
            self._written[key] = digest, now
            if len(self._written) > NOTED_MAX:
                self._written.popitem(last=False)

    async def get(self, key: str) -> Copy | None:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, key)

    def is_empty(self) -> bool:
        """Tell whether there is nothing to show; waits for the disk."""
        if not self.path.exists():
            return True
        try:
            with closing(self._connect()) as connection:
                found = connection.execute("SELECT 1 FROM copies LIMIT 1").fetchone()
        except sqlite3.Error:
            return True
        return found is None

    def size(self) -> int:
        """Return how many bytes it has on the disk."""
        files = (Path(f"{self.path}{suffix}") for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _read(self, key: str) -> Copy | None:
        try:
            with closing(self._connect()) as connection:
                query = "SELECT stored_at, about, body FROM copies WHERE key = ?"
                row = connection.execute(query, [key]).fetchone()
            return _load(*row) if row else None
        except (sqlite3.Error, orjson.JSONDecodeError, KeyError) as error:
            logger.warning("The last known answers cannot be read: %s", error)
            return None

    def _write(self) -> None:
        checked = 0.0
        while batch := self._next_batch():
            try:
                with closing(self._connect()) as connection, connection:
                    connection.executescript(SCHEMA)
                    connection.executemany(
                        "INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?, ?)",
                        [_dump(key, copy) for key, copy in batch],
                    )
                    if time.monotonic() - checked > ROOM_CHECK_S:
                        checked = time.monotonic()
                        self._make_room(connection)
            except sqlite3.OperationalError as error:  # no room, or another's lock
                logger.warning("The last known answers cannot be written: %s", error)
            except sqlite3.DatabaseError as error:
                logger.warning("The last known answers are made anew: %s", error)
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _next_batch(self) -> list[tuple[str, Copy]]:
        batch = []
        entry = self._waiting.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) == BATCH or self._waiting.empty():
                return batch
            entry = self._waiting.get()
        return []

    def _connect(self) -> sqlite3.Connection:
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(self.path, timeout=TIMEOUT_S)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Delete the oldest quarter if there is too much."""
        sizes = "SELECT coalesce(sum(size), 0) FROM copies"
        if connection.execute(sizes).fetchone()[0] <= self.max_bytes:
            return
        connection.execute(
            "DELETE FROM copies WHERE stored_at <= "
            "(SELECT stored_at FROM copies ORDER BY stored_at LIMIT 1 "
            "OFFSET (SELECT count(*) / 4 FROM copies))"
        )


def _dump(key: str, copy: Copy) -> tuple[str, float, int, bytes, bytes]:
    about = {
        "headers": [
            (n.decode("latin-1"), v.decode("latin-1")) for n, v in copy.headers
        ],
        "limits": (copy.fresh_s, copy.stale_while_revalidate_s, copy.stale_if_error_s),
        "mark": (copy.mark.at, copy.mark.slots),
        "varies_by_token": copy.varies_by_token,
        "boot": boot_id(),
    }
    return key, copy.stored_at, copy.size, orjson.dumps(about), copy.body


def _load(stored_at: float, about: bytes, body: bytes) -> Copy:
    told = orjson.loads(about)
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
        varies_by_token=told["varies_by_token"],
        stored_at=stored_at,
        stored=time.monotonic() - max(time.time() - stored_at, 0.0),
        etag=by_name.get(b"etag"),
        modified=by_name.get(b"last-modified"),
    )
