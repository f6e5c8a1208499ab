"""Many rows, or keys, in one statement."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.db import connection
from django.db.backends.utils import CursorWrapper

# One parameter for all texts, none of which has a line break: with one for each, as
# Django has it, to make the statement takes longer than to run it.
IS_ANY = {
    "postgresql": "= ANY(STRING_TO_ARRAY(%s, E'\\n'))",
    "sqlite": "IN (SELECT value FROM JSON_EACH(%s))",
}


def is_any() -> str:
    """Return the condition that a column has one of the texts of a parameter."""
    return IS_ANY[connection.vendor]


def texts(values: Collection[str]) -> str:
    """Return that parameter; of none it is one empty text on PostgreSQL."""
    if connection.vendor == "postgresql":
        return "\n".join(values)
    return json.dumps([*values])


def insert_rows(
    cursor: CursorWrapper,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> None:
    """Insert rows, by COPY on PostgreSQL; the names are ours."""
    names = ", ".join(columns)
    if connection.vendor == "postgresql":
        # Django wraps the errors of other statements alone.
        with (
            connection.wrap_database_errors,
            cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)
    else:
        values = ", ".join(["%s"] * len(columns))
        sql = f"INSERT INTO {table} ({names}) VALUES ({values})"
        cursor.executemany(sql, rows)  # type: ignore[arg-type]
