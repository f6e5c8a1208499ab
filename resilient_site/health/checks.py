"""Health checks of the database, the cache and operator overrides."""

import math
import shutil
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.db import DatabaseError, InterfaceError, connection
from django.template.defaultfilters import filesizeformat

from resilient_site.cache.memory import memory_usage
from resilient_site.health.components import CheckResult, Component, Status, register
from resilient_site.postgres.heartbeat import heartbeat
from resilient_site.postgres.replicas import replicas
from resilient_site.resilience import breakers
from resilient_site.resilience.breaker_overrides import describe_all
from resilient_site.resilience.breakers import State, describe

DATABASE = "database"
DATABASE_UNAVAILABLE = (
    "The database does not answer. Pages that were read before are shown as they were, "
    "with a notice. Changes cannot be saved until it answers again."
)
DATABASE_DEGRADED = (
    "The database answers, but not to everything. Some pages are shown as they were, "
    "and some changes cannot be saved."
)
DATABASE_READ_ONLY = (
    "The database accepts no changes. Everything can be read, and nothing be saved."
)
COMMITS_HANG = (
    "The database does not save changes: it answers queries, and no commit. Everything "
    "can be read."
)
DISK_FULL = (
    "The disk is full. Files cannot be uploaded, and some changes not be saved, until "
    "there is room again."
)
REPLICAS_UNUSED = (
    "A replica of the database is not used. Pages may be a little slower; nothing is "
    "lost."
)
CACHE_UNAVAILABLE = (
    "The shared cache does not answer. Pages may be a little slower; nothing is lost."
)


def database() -> CheckResult:
    try:
        error = ""
        if breakers.database.state is State.OPEN:
            error = breakers.database.last_error or "forced open"
        elif not heartbeat.is_running:
            with connection.cursor() as cursor:
                # SQLite reads nothing from the file without a table.
                cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
    except (DatabaseError, InterfaceError) as failure:
        error = describe(failure)
    if error:
        return CheckResult(Status.FAIL, DATABASE_UNAVAILABLE, error)
    if heartbeat.is_running and heartbeat.is_read_only:
        return CheckResult(Status.WARN, DATABASE_READ_ONLY)
    if heartbeat.commits_hang:
        return CheckResult(Status.WARN, COMMITS_HANG)
    if degradation := breakers.database.degradation:
        return CheckResult(Status.WARN, DATABASE_DEGRADED, degradation)
    text = "The catalogue can be read and changed."
    return CheckResult(Status.PASS, text, figures=(("Kind", connection.vendor),))


def of_replicas() -> CheckResult:
    figures, errors = [], []
    for alias, replica in replicas().items():
        lag_s = replica.lag_s
        known = f"{lag_s:.1f} s" if lag_s < math.inf else "unknown"
        figures.append((alias, f"at most {known} behind, {replica.requests:,} reads"))
        if replica.breaker.state is State.OPEN:
            errors.append(f"{alias}: {replica.breaker.last_error or 'forced open'}")
        elif replica.problem or replica.is_behind:
            errors.append(f"{alias}: {replica.problem or 'It is too far behind.'}")
    if errors:
        error = " ".join(errors)
        return CheckResult(Status.WARN, REPLICAS_UNUSED, error, tuple(figures))
    text = "Reads go to the replicas of the database."
    return CheckResult(Status.PASS, text, figures=tuple(figures))


def cache() -> CheckResult:
    shared: Any = caches["default"]
    if not shared.is_shared:
        text = "Each process caches in its own memory."
        return CheckResult(Status.PASS, text, figures=tuple(_memory_figures()))
    shared.ping()
    state = shared.server_state
    figures = (
        ("Calls that failed", f"{state.errors:,}"),
        ("Calls answered from memory", f"{state.fallbacks:,}"),
        *_memory_figures(),
    )
    if shared.is_degraded:
        error = breakers.cache.last_error
        return CheckResult(Status.WARN, CACHE_UNAVAILABLE, error, figures)
    return CheckResult(Status.PASS, "The shared cache is in use.", figures=figures)


def _memory_figures() -> Iterator[tuple[str, str]]:
    usage = memory_usage()
    yield "In memory", f"{usage.entries:,} entries, {filesizeformat(usage.bytes)}"
    rates: Any = caches["rates"]
    is_shared = rates.is_shared and not rates.is_degraded
    yield "Rate limits are counted", "together" if is_shared else "by each process"


def disk() -> CheckResult:
    free = shutil.disk_usage(settings.DATA_DIR).free
    figures = (("Free", filesizeformat(free)),)
    if error := breakers.disk.degradation:
        return CheckResult(Status.WARN, DISK_FULL, error, figures)
    return CheckResult(Status.PASS, "The disk has room.", figures=figures)


def overrides() -> CheckResult:
    if found := describe_all():
        return CheckResult(Status.WARN, " ".join(found))
    return CheckResult(Status.PASS, "No circuit breaker is forced open or closed.")


def register_all() -> None:
    register(Component(DATABASE, "Catalogue", "datastore", database))
    if replicas():
        register(Component("replicas", "Replicas", "datastore", of_replicas))
    register(Component("cache", "Cache", "datastore", cache))
    register(Component("disk", "Disk", "system", disk))
    register(Component("overrides", "Overrides", "system", overrides))
