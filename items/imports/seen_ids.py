"""What an import has read its rows to be of, with the line of each.

Items are named by their ids, or by collection and code (see `integrity.place_name`).
They are on disk, in a table of SQLite, so that memory does not grow with the file.
They follow from the file alone: recorded twice, they are the same.
"""

import errno
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

PREPARE = """
    PRAGMA cache_size = -2048;  -- KiB
    PRAGMA synchronous = OFF;
    CREATE TABLE IF NOT EXISTS temp.batch
        (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS main.seen
        (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS main.other (id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS temp.absent (name TEXT, id TEXT);
    CREATE TABLE IF NOT EXISTS temp.waiting
        (id TEXT PRIMARY KEY, line INTEGER, row TEXT);
"""
# Rows that refer to what no row is of, and those that refer to them.
LOST = """
    WITH RECURSIVE lost (id) AS (
        SELECT id FROM absent WHERE name NOT IN (SELECT id FROM seen)
        UNION SELECT absent.id FROM lost JOIN absent ON name = lost.id
    )
    SELECT row, id IN (SELECT id FROM lost) FROM waiting ORDER BY line
"""
KNOWN = """
    SELECT id FROM batch
    WHERE id IN (SELECT id FROM seen) OR id IN (SELECT id FROM other)
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

    def record(
        self, lines: Mapping[str, int], others: Iterable[str] = (), *, up_to: int
    ) -> dict[str, int]:
        """Record names with their lines; return those that an earlier line has.

        `others` are names that rows have beside, or those of rejected rows: they are no
        reason to reject a later row.
        """
        with _as_os_error(), self._db:
            self._db.execute("BEGIN")
            self._fill(lines.items())
            earlier = self._db.execute(
                "SELECT b.id, s.line FROM batch b JOIN seen s USING (id) "
                "WHERE s.line < b.line"
            ).fetchall()
            self._db.execute("INSERT OR IGNORE INTO seen SELECT * FROM batch")
            insert = "INSERT OR IGNORE INTO other VALUES (?)"
            self._db.executemany(insert, [(name,) for name in others])
            self._db.execute(f"PRAGMA user_version = {max(up_to, self.line)}")
        return dict(earlier)

    def known(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that any row has."""
        with _as_os_error():
            self._fill((name, 0) for name in names)
            return {name for (name,) in self._db.execute(KNOWN)}

    def _fill(self, names: Iterable[tuple[str, int]]) -> None:
        self._db.execute("DELETE FROM batch")
        self._db.executemany("INSERT OR IGNORE INTO batch VALUES (?, ?)", names)

    def record_absent(
        self, item_id: str, names: Iterable[str], line: int, row: str
    ) -> None:
        """Record a row, as a text, that refers to these names."""
        with _as_os_error():
            insert = "INSERT INTO absent VALUES (?, ?)"
            self._db.executemany(insert, [(name, item_id) for name in names])
            replace = "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?)"
            self._db.execute(replace, (item_id, line, row))

    def waiting(self) -> Iterator[tuple[str, bool]]:
        """Yield those rows, and whether what they refer to is in no row."""
        with _as_os_error():
            for row, is_lost in self._db.execute(LOST):
                yield row, bool(is_lost)

    def close(self) -> None:
        self._db.close()
