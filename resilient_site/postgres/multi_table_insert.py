"""Insertion of rows of several tables in one round trip to PostgreSQL."""

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import AutoField, Model
from django.db.models.expressions import DatabaseDefault


def insert_together(*rows: Model) -> None:
    """Insert new rows, the last one first; all of them or none.

    One statement with INSERT in WITH (PostgreSQL's manual, section 7.8.4), built here:
    Django takes as long to compile it as the database to run it. The rows do not learn
    what the database generates (keys, defaults).
    """
    connection = connections[DEFAULT_DB_ALIAS]
    inserts, params = [], []
    for row in rows:
        fields = [
            field
            for field in row._meta.concrete_fields
            if not field.generated
            and not isinstance(field, AutoField)
            and not isinstance(getattr(row, field.attname), DatabaseDefault)
        ]
        columns = ", ".join(f'"{field.column}"' for field in fields)
        values = ", ".join(["%s"] * len(fields))
        table = row._meta.db_table
        inserts.append(f'INSERT INTO "{table}" ({columns}) VALUES ({values})')  # noqa: S608
        params += [
            field.get_db_prep_save(field.pre_save(row, add=True), connection)
            for field in fields
        ]
    *before, last = inserts
    named = ", ".join(f"row_{n} AS ({insert})" for n, insert in enumerate(before))
    with connection.cursor() as cursor:
        cursor.execute(f"WITH {named} {last}", params)
