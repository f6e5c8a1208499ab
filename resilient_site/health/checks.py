"""How the database and the cache are."""

from collections.abc import Iterator
from typing import Any

from django.core.cache import caches
from django.db import DatabaseError, InterfaceError, connection
from django.template.defaultfilters import filesizeformat

from resilient_site.cache.memory import memory_usage
from resilient_site.health.components import Finding, Part, Status, register
from resilient_site.postgres.heartbeat import pulse
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State, describe

DATABASE = "database"
DATABASE_WELL = "The catalogue can be read and changed."
DATABASE_AWAY = (
    "The database does not answer. What was read before is still shown, marked as old; "
    "nothing can be saved until it is back."
)
CACHE_OWN = "Each process has a cache in its own memory."
CACHE_SHARED = "The shared cache is in use."
CACHE_UNAVAILABLE = (
    "The shared cache does not answer. Pages may be a little slower; nothing is lost."
)


def database() -> Finding:
    try:
        error = ""
        if breakers.database.state is State.OPEN:
            error = breakers.database.snapshot().last_error or "held open"
        elif not pulse.is_running:
            _ask()
    except (DatabaseError, InterfaceError) as failure:
        error = describe(failure)
    if error:
        return Finding(Status.FAIL, DATABASE_AWAY, error)
    return Finding(Status.PASS, DATABASE_WELL, figures=(("Kind", connection.vendor),))


def _ask() -> None:
    with connection.cursor() as cursor:
        # On SQLite nothing is read from the file without a table.
        cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")


def cache() -> Finding:
    shared: Any = caches["default"]
    if not shared.is_shared:
        return Finding(Status.PASS, CACHE_OWN, figures=tuple(_memory_figures()))
    shared.ping()
    state = shared.server_state
    figures = (
        ("Calls that failed", f"{state.errors:,}"),
        ("Calls answered from memory", f"{state.fallbacks:,}"),
        *_memory_figures(),
    )
    if shared.is_degraded:
        error = breakers.cache.snapshot().last_error
        return Finding(Status.WARN, CACHE_UNAVAILABLE, error, figures)
    return Finding(Status.PASS, CACHE_SHARED, figures=figures)


def _memory_figures() -> Iterator[tuple[str, str]]:
    usage = memory_usage()
    yield "In memory", f"{usage.entries:,} entries, {filesizeformat(usage.bytes)}"
    rates: Any = caches["rates"]
    together = rates.is_shared and not rates.is_degraded
    by = "by all processes together" if together else "by each process for itself"
    yield "Rate limits are counted", by


def register_all() -> None:
    register(Part(DATABASE, "Catalogue", "datastore", database))
    register(Part("cache", "Cache", "datastore", cache))
