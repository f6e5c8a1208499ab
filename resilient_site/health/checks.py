"""How the database and the cache are."""

from collections.abc import Iterator

from django.conf import settings
from django.core.cache import caches
from django.db import DatabaseError, InterfaceError, connection
from django.template.defaultfilters import filesizeformat

from resilient_site.cache.backend import GuardedCache
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
CACHE_OWN = "Every process keeps what is asked for often in its own memory."
CACHE_WELL = "What is asked for often is kept at hand."
CACHE_AWAY = (
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
    backends = [(alias, caches[alias]) for alias in settings.CACHES]
    guarded = [(a, b) for a, b in backends if isinstance(b, GuardedCache)]
    shared = [backend for _, backend in guarded if backend.is_shared]
    figures = tuple(_figures(guarded))
    if not shared:
        return Finding(Status.PASS, CACHE_OWN, figures=figures)
    shared[0].ping()
    breaker = breakers.cache.snapshot()
    away = breakers.cache.state is not State.CLOSED
    if away or any(backend.is_degraded for backend in shared):
        return Finding(Status.WARN, CACHE_AWAY, breaker.last_error, figures)
    return Finding(Status.PASS, CACHE_WELL, figures=figures)


def _figures(backends: list[tuple[str, GuardedCache]]) -> Iterator[tuple[str, str]]:
    for alias, backend in backends:
        stats = backend.stats()
        asked = stats["hits"] + stats["misses"]
        found = f"{stats['hits'] / asked:.0%} of {asked:,} found" if asked else "unused"
        used = filesizeformat(stats["memory_bytes"])
        yield (
            f"Cache “{alias}”",
            f"{found}; {stats['memory_entries']:,} in memory, {used}",
        )
        if backend.is_shared:
            without, errors = stats["fallbacks"], stats["errors"]
            yield (
                f"Redis for “{alias}”",
                f"{errors:,} errors; memory stood in {without:,} times",
            )
    yield "Rate limits are counted", _counted_by(backends)


def _counted_by(backends: list[tuple[str, GuardedCache]]) -> str:
    rates = dict(backends).get("rates")
    together = rates is not None and rates.is_shared and not rates.is_degraded
    return "by all processes together" if together else "by each process for itself"


def register_all() -> None:
    register(Part(DATABASE, "Catalogue", "datastore", database))
    register(Part("cache", "Cache", "datastore", cache))
