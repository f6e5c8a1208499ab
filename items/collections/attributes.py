"""The value of an attribute in a query, as its index has it."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields.json import KeyTransform

# Without parameters: SQLite looks for an index of an expression before it knows them.
SQLITE = """(CASE WHEN JSON_TYPE({column}, '{path}') IN ('false', 'true', 'null')
THEN JSON_TYPE({column}, '{path}') ELSE JSON_EXTRACT({column}, '{path}') END)"""


class AttributeValue(KeyTransform):
    """Value of the attribute of this name: `AttributeValue(name, "attributes")`.

    Its lookups are those of Django's, for JSON. The name has NAME_PATTERN.
    """

    def as_sqlite(
        self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any
    ) -> tuple[str, tuple[Any, ...]]:
        column, params, _ = self.preprocess_lhs(compiler, connection)
        path = f'$."{self.key_name}"'
        return SQLITE.format(column=column, path=path), tuple(params) * 3
