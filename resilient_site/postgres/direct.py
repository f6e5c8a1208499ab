"""The database itself, where DATABASE_URL is that of a pooler (DATABASE_DIRECT_URL).

A pooler gives each transaction another session. What lasts longer needs the database:
LISTEN, locks and settings of a session, backups.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections


def direct_settings() -> dict[str, Any]:
    """Return the settings of the database itself, as those of Django's connections."""
    settings: dict[str, Any] = connections[DEFAULT_DB_ALIAS].settings_dict
    direct: dict[str, Any] = settings.get("DIRECT", {})
    return settings | direct


@contextmanager
def directly() -> Iterator[None]:
    """Have this thread use the database itself in the block.

    Within a transaction it goes on as it is.
    """
    pooled: Any = connections[DEFAULT_DB_ALIAS]
    if "DIRECT" not in pooled.settings_dict or pooled.in_atomic_block:
        yield
        return
    settings = direct_settings()
    del settings["DIRECT"]
    direct = connections[DEFAULT_DB_ALIAS] = type(pooled)(settings, DEFAULT_DB_ALIAS)
    try:
        yield
    finally:
        direct.close()
        connections[DEFAULT_DB_ALIAS] = pooled
