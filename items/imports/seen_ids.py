"""Ids that an import has read, with the line of each.

They are on disk, in a table of SQLite, so that memory does not grow with the file.
They follow from the file alone: recorded twice, they are the same.
"""

import errno
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PREPARE = """
    PRAGMA cache_size = -2048;  -- KiB
    PRAGMA synchronous = OFF;
    CREATE TABLE IF NOT EXISTS temp.batch
        (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS main.seen
        (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS temp.absent
        (name TEXT, id TEXT, is_new INTEGER, line INTEGER, reason TEXT, text TEXT);
"""
# Rows that refer to no row, and those that refer to them.
LOST = """
    WITH RECURSIVE lost (id) AS (
        SELECT id FROM absent WHERE name NOT IN (SELECT id FROM seen)
        UNION SELECT absent.id FROM lost JOIN absent ON name = lost.id
    )
    SELECT DISTINCT is_new, line, reason, text FROM absent
    WHERE id IN (SELECT id FROM lost) ORDER BY line
"""


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        code = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise OSError(code, f"The ids of the import: {error}") from error


class SeenIds:
    def __init__(self, path: str = "") -> None:
        """Open the file at `path`; without one they are gone when it is closed.

        Raises OSError, as `record` does, if the disk is full.
        """
        with _as_os_error():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1)
            try:
                self._db.executescript(PREPARE)
            except sqlite3.Error:
                self._db.close()
                raise

    @property
    def line(self) -> int:
        """The line up to which the ids are recorded."""
        line: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        return line

    def record(self, lines: Mapping[str, int], *, up_to: int) -> dict[str, int]:
        """Record the ids with their lines; return those that an earlier line has."""
        with _as_os_error(), self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM batch")
            self._db.executemany("INSERT INTO batch VALUES (?, ?)", lines.items())
            earlier = self._db.execute(
                "SELECT b.id, s.line FROM batch b JOIN seen s USING (id) "
                "WHERE s.line < b.line"
            ).fetchall()
            self._db.execute("INSERT OR IGNORE INTO seen SELECT * FROM batch")
            self._db.execute(f"PRAGMA user_version = {max(up_to, self.line)}")
        return dict(earlier)

    def record_absent(
        self, row: tuple[str, bool, int, str, str], names: Iterable[str]
    ) -> None:
        """Record a row (id, is_new, line, reason, text) that refers to these ids."""
        with _as_os_error():
            insert = "INSERT INTO absent VALUES (?, ?, ?, ?, ?, ?)"
            self._db.executemany(insert, [(name, *row) for name in names])

    def lost(self) -> Iterator[tuple[Any, ...]]:
        """Yield those rows, but for the id, whose names no row has."""
        with _as_os_error():
            yield from self._db.execute(LOST)

    def close(self) -> None:
        self._db.close()
