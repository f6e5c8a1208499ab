"""The order in which transactions become visible, for readers of the change log.

Numbers from a sequence are handed out before the commit, so a reader that remembers
the last number it saw misses a slower transaction's rows. PostgreSQL numbers its
transactions and can tell below which one all have ended (pg_snapshot_xmin): rows
ordered by that number, and read up to it, appear once and in order.
SQLite has one writer at a time, so there its sequence is in commit order already.
A new cluster counts anew, so numbers in a restored dump may be larger than any of its
own: `migrate` sets these back to 0, and a cursor from before the restore is refused.
"""

from typing import Any

from django.db import connection
from django.db.models import BigIntegerField, Func


class TransactionId(Func):
    """The number of the writing transaction; 0 where there is one writer only."""

    template = "0"
    arity = 0
    output_field = BigIntegerField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(
            compiler,
            connection,
            template="(pg_current_xact_id()::text)::bigint",
            **context,
        )


def first_open_transaction() -> int | None:
    """Return the number below which every transaction has ended; None: all have."""
    return _snapshot("pg_snapshot_xmin")


def next_transaction() -> int | None:
    """Return the number that none here has reached yet; None: they have no numbers."""
    return _snapshot("pg_snapshot_xmax")


def _snapshot(edge: str) -> int | None:
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT ({edge}(pg_current_snapshot())::text)::bigint")
        return int(cursor.fetchone()[0])
