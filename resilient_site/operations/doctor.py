"""What is reachable, what is set up badly and what is at its limit, in plain words.

Apps register examinations of their own when they are ready. Each has a few seconds:
what hangs is found to hang, and keeps nobody from the rest.
"""

import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import WARNING, run_checks
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.template.defaultfilters import filesizeformat

from resilient_site.resilience import deadlines
from resilient_site.resilience.breakers import describe

PATIENCE_S = 5.0
LITTLE_ROOM_BYTES = 1024**3
NO_ROOM_BYTES = 100 * 1024**2
NEARLY = 0.9
# Connections, and what a process opens itself.
FILES_WANTED = 4_096


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    level: Level
    what: str
    todo: str = ""


def ok(what: str) -> Finding:
    return Finding(Level.OK, what)


def warning(what: str, todo: str) -> Finding:
    return Finding(Level.WARNING, what, todo)


def failure(what: str, todo: str) -> Finding:
    return Finding(Level.FAILURE, what, todo)


# What it says instead of the error, which may quote a part of the password.
UNREADABLE = failure(
    "The address cannot be read.",
    "In its password write %2F for /, %23 for # and %40 for @.",
)
PORTS = {"amqps": 5671, "redis": 6379, "rediss": 6379}

type Examination = Callable[[], Iterable[Finding]]

_examinations: dict[str, Examination] = {}


def register(name: str, examine: Examination) -> None:
    _examinations[name] = examine


def examine_all() -> Iterator[tuple[str, Finding]]:
    """Examine one thing after another; return its name with each finding."""
    for name, examination in _examinations.items():
        pool = ThreadPoolExecutor(1)
        try:
            found = pool.submit(_examine, examination).result(2 * PATIENCE_S)
        except TimeoutError:
            found = [failure("It does not answer.", "See whether it hangs.")]
        pool.shutdown(wait=False)
        for finding in found:
            yield name, finding


def _examine(examination: Examination) -> list[Finding]:
    try:
        with deadlines.within(PATIENCE_S):
            return list(examination())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be told
        return [failure(describe(error), "See that it runs and can be reached.")]
    finally:
        connection.close()


# --- what the site itself stands on


def environment() -> Iterator[Finding]:
    if settings.EMBEDDED:
        yield ok("The embedded default: SQLite, for one machine, without HTTPS.")
    messages = run_checks(include_deployment_checks=not settings.EMBEDDED)
    serious = [m for m in messages if m.level >= WARNING and not m.is_silenced()]
    for message in serious:
        yield warning(f"{message.id}: {message.msg}", message.hint or "")
    if not serious:
        yield ok("The settings fit together.")
    if settings.DEBUG:
        yield failure("DEBUG is on: errors show the code to strangers.", "Unset DEBUG.")


def database() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    version = ".".join(map(str, connection.get_database_version()))
    yield ok(f"{connection.display_name} {version} answers.")
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        said = f"Migrations are missing: {len(missing)}, from {missing[0][0]} on."
        yield failure(said, "Run manage.py migrate.")
    if connection.vendor == "postgresql":
        yield from _postgresql()


def _postgresql() -> Iterator[Finding]:
    most, used = int(_ask("SHOW max_connections")), int(_ask(CONNECTIONS))
    wanted = settings.WEB_PROCESSES * (settings.WEB_THREADS + 2)
    wanted += settings.COMPUTE_PROCESSES + 2
    said = f"{used} of {most} connections are in use; one machine takes up to {wanted}."
    if wanted > most or used > NEARLY * most:
        yield warning(said, "Raise max_connections, or lower WEB_THREADS.")
    else:
        yield ok(said)
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        if _ask(f"SHOW {setting}") == "off":
            yield failure(
                f"{setting} is off: a crash may lose writes that were acknowledged.",
                f"Set {setting} to on in postgresql.conf.",
            )
    if idle := int(_ask(LONG_IDLE)):
        yield warning(
            f"{idle} transactions have been open for an hour and do nothing.",
            "They keep the change feed from going on. See pg_stat_activity.",
        )


CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
LONG_IDLE = """SELECT count(*) FROM pg_stat_activity
    WHERE state LIKE 'idle in transaction%' AND now() - xact_start > interval '1 h'"""


def _ask(question: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(question)
        return str(cursor.fetchone()[0])


def shared_cache() -> Iterator[Finding]:
    if not settings.REDIS_URL:
        yield ok("None: each process keeps what is asked for often to itself.")
        return
    from redis import Redis  # takes long: not without Redis

    try:
        redis_at = Redis.from_url(
            settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2
        )
    except ValueError:
        yield UNREADABLE
        return
    with redis_at as client:
        server, memory = client.info("server"), client.info("memory")
    yield ok(f"Redis {server['redis_version']} answers.")
    most, used = memory["maxmemory"], memory["used_memory"]
    policy = memory["maxmemory_policy"]
    if most and policy == "noeviction" and used > NEARLY * most:
        yield failure(
            f"It is full: {filesizeformat(used)} of {filesizeformat(most)}.",
            "Set maxmemory-policy to allkeys-lru.",
        )
    elif policy == "noeviction":
        yield warning(
            "It throws nothing away when its memory is full.",
            "Set maxmemory, and maxmemory-policy to allkeys-lru.",
        )


def folder() -> Iterator[Finding]:
    path = settings.DATA_DIR
    probe = path / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        owner = "Give it to the user who runs the site."
        yield failure(f"Nothing can be written to {path}: {error.strerror}.", owner)
        return
    free = shutil.disk_usage(path).free
    said = f"{path} can be written to; {filesizeformat(free)} are free."
    if free < NO_ROOM_BYTES:
        yield failure(said, "Make room: writes are about to be refused.")
    elif free < LITTLE_ROOM_BYTES:
        yield warning(said, "Make room soon.")
    else:
        yield ok(said)


def machine() -> Iterator[Finding]:
    # gunicorn.conf.py raises the soft limit.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    said = f"A process may open {files:,} files."
    if files != resource.RLIM_INFINITY and files < FILES_WANTED:
        yield warning(said, f"Raise it to {FILES_WANTED:,} (LimitNOFILE).")
    else:
        yield ok(said)


def reach(urls: str) -> Finding:
    """Tell whether something listens where they point to; `;` stands between them."""
    answering, silent = [], []
    for url in urls.split(";"):
        parts = urlsplit(url)
        host = parts.hostname or "localhost"
        try:
            port = parts.port or PORTS.get(parts.scheme, 5672)
        except ValueError:
            return UNREADABLE
        place = f"{host}:{port}"
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError as error:
            silent.append(f"{place} does not answer: {describe(error)}")
        else:
            answering.append(f"{place} answers.")
    said = " ".join([*answering, *silent])
    if not silent:
        return ok(said)
    say = warning if answering else failure
    return say(said, "See that it runs and can be reached.")


def register_all() -> None:
    register("settings", environment)
    register("machine", machine)
    register("folder", folder)
    register("database", database)
    register("cache", shared_cache)
