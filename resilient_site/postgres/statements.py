"""Statements that Django does not make: prepared ones, an INSERT into many tables."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models import AutoField, Model
from django.db.models.expressions import DatabaseDefault

from resilient_site.postgres.connection import CancellableConnection


def fetch_rows(
    sql: str, params: Sequence[Any], using: str = DEFAULT_DB_ALIAS
) -> list[tuple[Any, ...]]:
    """Return the rows of a query, which PostgreSQL plans once a connection."""
    with _execute_prepared(sql, params, using) as cursor:
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


@contextmanager
def _execute_prepared(
    sql: str, params: Sequence[Any], using: str = DEFAULT_DB_ALIAS
) -> Iterator[Any]:
    """Execute a statement with a cursor that binds parameters on the server.

    Django binds them on the client, so that each statement is planned anew: for a read
    by key that takes longer than to run it, for a write as long. Behind a pooler it is
    planned anew, too: only some pass prepared statements on.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        driver: CancellableConnection = connection.connection
        cursor.cursor = psycopg.Cursor(driver)
        # Django turns them off for a connection: its own statements all differ.
        driver.prepare_threshold = None if driver.is_pooled else 0
        try:
            cursor.execute(sql, params)
        finally:
            driver.prepare_threshold = None
        yield cursor


def insert_together(*rows: Model) -> None:
    """Insert new rows, the last one first; all of them or none.

    One statement with INSERT in WITH (PostgreSQL's manual, section 7.8.4), built here:
    Django takes as long to compile it as the database to run it. The rows do not learn
    what the database generates (keys, defaults).
    """
    *before, last = [_insert(row) for row in rows]
    _execute_together(before, last)


def update_together(changed: Model, names: Collection[str], *rows: Model) -> None:
    """Update the fields `names` of a row, and insert new rows, likewise."""
    fields = [field for field in changed._meta.concrete_fields if field.name in names]
    values = ", ".join(f'"{field.column}" = %s' for field in fields)
    meta = changed._meta
    sql = f'UPDATE "{meta.db_table}" SET {values} WHERE "{meta.pk.column}" = %s'  # noqa: S608
    params = [*_values(changed, fields, add=False), changed.pk]
    _execute_together([_insert(row) for row in rows], (sql, params))


def _insert(row: Model) -> tuple[str, list[Any]]:
    fields = [
        field
        for field in row._meta.concrete_fields
        if not field.generated
        and not isinstance(field, AutoField)
        and not isinstance(getattr(row, field.attname), DatabaseDefault)
    ]
    columns = ", ".join(f'"{field.column}"' for field in fields)
    values = ", ".join(["%s"] * len(fields))
    sql = f'INSERT INTO "{row._meta.db_table}" ({columns}) VALUES ({values})'  # noqa: S608
    return sql, _values(row, fields, add=True)


def _values(row: Model, fields: Iterable[Any], *, add: bool) -> list[Any]:
    return [
        field.get_db_prep_save(field.pre_save(row, add=add), connection)
        for field in fields
    ]


def _execute_together(
    before: Sequence[tuple[str, list[Any]]], last: tuple[str, list[Any]]
) -> None:
    named = ", ".join(f"row_{n} AS ({sql})" for n, (sql, _) in enumerate(before))
    params = [value for _, values in (*before, last) for value in values]
    with _execute_prepared(f"WITH {named} {last[0]}", params):
        pass
