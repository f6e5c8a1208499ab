"""Transaction numbers: the order in which changes become visible to readers.

A sequence assigns its numbers before the commit, so that a reader that remembers the
last number misses the rows of a slower transaction. PostgreSQL numbers its
transactions, and a snapshot lists those that have not ended: rows ordered by that
number, and read up to the first open one, appear once and in order.
The numbers are of the whole cluster. A transaction of another database writes none of
our rows, and is left out; one that cannot be assigned to a database is not.
SQLite has one writer at a time, so that its sequence is in commit order already.
A new cluster starts its count again, so that numbers in a restored dump may exceed all
of its own: `migrate` resets these to 0, and a cursor from before the restore is
rejected.
"""

from typing import Any

from django.db import connection
from django.db.models import BigIntegerField, Func


class TransactionId(Func):
    """Number of the writing transaction; 0 where there is one writer only."""

    template = "0"
    arity = 0
    output_field = BigIntegerField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "(pg_current_xact_id()::text)::bigint"
        return self.as_sql(compiler, connection, template=template, **context)


class UnusedTransaction(Func):
    """First unused number for the statement that it is in, on PostgreSQL.

    A number that was fetched before may be in use when the statement runs.
    """

    template = "(pg_snapshot_xmax(pg_current_snapshot())::text)::bigint"
    arity = 0
    output_field = BigIntegerField()


# That a transaction belongs to another database stays true, whenever it is read: one
# that was open in the snapshot and has ended since is not found, and so not left out.
# pg_stat_activity alone might pair the database of a backend that has ended with the
# transaction of its successor; pg_locks confirms the process. A standby's snapshot
# lists no transactions, hence its lower end; a snapshot lacks the reader's own.
FIRST_OPEN = """
    SELECT coalesce(
        min(number::text::bigint),
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint
    )
    FROM (
        SELECT pg_snapshot_xmin(pg_current_snapshot())
        UNION SELECT pg_snapshot_xip(pg_current_snapshot())
        UNION SELECT pg_current_xact_id_if_assigned()
    ) AS open (number)
    WHERE number < pg_snapshot_xmax(pg_current_snapshot()) AND number::xid NOT IN (
        SELECT backend_xid
        FROM pg_stat_activity AS backend JOIN pg_locks AS held
        ON held.pid = backend.pid AND held.transactionid = backend_xid
        WHERE datname <> current_database() AND held.mode = 'ExclusiveLock'
        UNION ALL
        SELECT transaction FROM pg_prepared_xacts
        WHERE database <> current_database()
    )
"""
EDGES = """
    SELECT pg_snapshot_xmin(taken)::text::bigint, pg_snapshot_xmax(taken)::text::bigint
    FROM pg_current_snapshot() AS taken
"""


def first_open_transaction() -> int | None:
    """Return the number below which all of this database have ended; None: all have."""
    if connection.vendor != "postgresql":
        return None
    first, unused = _ask(EDGES)
    # Whose the open ones are takes a millisecond to find out.
    return first if first == unused else _ask(FIRST_OPEN)[0]


def next_transaction() -> int | None:
    """Return the first unused number; None: transactions have no numbers."""
    return _ask(EDGES)[1] if connection.vendor == "postgresql" else None


def _ask(query: str) -> tuple[int, ...]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return tuple(cursor.fetchone())
