"""Rows of several tables, written with one way to the database and back."""

from functools import cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import AutoField, Field, Model


def insert_together(*rows: Model) -> None:
    """Insert new rows, the last one first; all of them or none.

    In one statement, as PostgreSQL has it: INSERT in WITH (its manual, section 7.8.4).
    It is put together here: Django takes as long to do it as the database to run it.
    What the database makes by itself (keys, defaults) the rows do not get to know.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    inserts, params = [], []
    for row in rows:
        insert, fields = _insert(type(row))
        inserts.append(insert)
        params += [
            field.get_db_prep_save(field.pre_save(row, add=True), connection)
            for field in fields
        ]
    *before, last = inserts
    begins = ", ".join(f"row_{n} AS ({insert})" for n, insert in enumerate(before))
    with connection.cursor() as cursor:
        cursor.execute(f"WITH {begins} {last}", params)


@cache
def _insert(model: type[Model]) -> "tuple[str, list[Field[Any, Any]]]":
    fields = [
        field
        for field in model._meta.concrete_fields
        if not (
            field.generated or field.has_db_default() or isinstance(field, AutoField)
        )
    ]
    columns = ", ".join(f'"{field.column}"' for field in fields)
    values = ", ".join(["%s"] * len(fields))
    table = model._meta.db_table
    insert = f'INSERT INTO "{table}" ({columns}) VALUES ({values})'  # noqa: S608
    return insert, fields
