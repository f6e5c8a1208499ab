"""Prepared statements for reads by key, which PostgreSQL then plans once a connection.

Django binds parameters on the client, so that PostgreSQL plans each statement anew: for
a read by key that takes longer than to run it. A pooler in front of PostgreSQL must
pass prepared statements on, as PgBouncer does from 1.21.
"""

from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import connection


def fetch_row(sql: str, params: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return the first row of a query that is the same but for its parameters."""
    with connection.cursor():  # connected, and known to be usable
        driver: psycopg.Connection[Any] = connection.connection
        is_logged = connection.queries_logged
        wrapped = connection.make_debug_cursor if is_logged else connection.make_cursor
        own: Any = psycopg.Cursor(driver)
        with wrapped(own) as cursor:
            # Django turns them off for a connection: its own statements all differ.
            driver.prepare_threshold = 0
            try:
                cursor.execute(sql, params)
            finally:
                driver.prepare_threshold = None
            row: tuple[Any, ...] | None = cursor.fetchone()
            return row
