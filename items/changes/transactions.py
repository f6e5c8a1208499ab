"""Transaction numbers: the order in which changes become visible to readers.

A sequence assigns its numbers before the commit, so that a reader that remembers the
last number misses the rows of a slower transaction. PostgreSQL numbers its
transactions and knows below which number all have ended (pg_snapshot_xmin): rows
ordered by that number, and read up to it, appear once and in order.
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


def first_open_transaction() -> int | None:
    """Return the number below which all transactions have ended; None: all have."""
    return _snapshot("pg_snapshot_xmin")


def next_transaction() -> int | None:
    """Return the first unused number; None: transactions have no numbers."""
    return _snapshot("pg_snapshot_xmax")


def _snapshot(edge: str) -> int | None:
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT ({edge}(pg_current_snapshot())::text)::bigint")
        return int(cursor.fetchone()[0])
