"""`manage.py doctor`: checks of services, settings and limits, in plain words.

Apps register their checks when they are ready. Each has a few seconds.
"""

import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import WARNING, run_checks
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.template.defaultfilters import filesizeformat

from resilient_site.cache.redis_url import connect
from resilient_site.edge.cache.daemon_threads import DaemonThreads
from resilient_site.postgres.direct import directly
from resilient_site.resilience import deadlines
from resilient_site.resilience.breaker_overrides import describe_all
from resilient_site.resilience.breakers import describe

TIMEOUT_S = 5.0
REDIS_TIMEOUT_S = 2.0
LOW_DISK_BYTES = 1024**3
FULL_DISK_BYTES = 100 * 1024**2
NEARLY_FULL = 0.9
# Connections, and files that a process opens itself.
OPEN_FILES_WANTED = 4_096


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


# In place of the error, which may quote a part of the password.
MALFORMED_URL = failure(
    "The URL is malformed.",
    "In its password, write %2F for /, %23 for # and %40 for @.",
)
UNREACHABLE = "Check that it runs and can be reached from here."
PORTS = {"amqps": 5671, "redis": 6379, "rediss": 6379}

type Check = Callable[[], Iterable[Finding]]

_checks: dict[str, Check] = {}


def register(name: str, check: Check) -> None:
    _checks[name] = check


def run_all() -> Iterator[tuple[str, Finding]]:
    """Run the checks one after another; return the name of each with its findings."""
    for name, check in _checks.items():
        try:
            found = DaemonThreads(1, "doctor").submit(_run, check).result(2 * TIMEOUT_S)
        except TimeoutError:
            found = [failure("It does not answer.", "Check whether it hangs.")]
        for finding in found:
            yield name, finding


def _run(check: Check) -> list[Finding]:
    try:
        with deadlines.within(TIMEOUT_S):
            return list(check())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return [failure(describe(error), UNREACHABLE)]
    finally:
        connection.close()


# --- the checks of the site itself


def environment() -> Iterator[Finding]:
    if settings.EMBEDDED:
        yield ok(
            "The site runs on its embedded default: SQLite, one machine, no HTTPS."
        )
    messages = run_checks(include_deployment_checks=not settings.EMBEDDED)
    serious = [m for m in messages if m.level >= WARNING and not m.is_silenced()]
    for message in serious:
        yield warning(f"{message.id}: {message.msg}", message.hint or "")
    if not serious:
        yield ok("The settings are consistent.")
    if settings.DEBUG:
        yield failure(
            "DEBUG is on: error pages show the source code to everyone.", "Unset DEBUG."
        )


def database() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    version = ".".join(map(str, connection.get_database_version()))
    yield ok(f"{connection.display_name} {version} answers.")
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        first = missing[0][0]
        text = f"Migrations are not applied: {len(missing)}, the first is {first}."
        yield failure(text, "Run manage.py migrate.")
    if connection.vendor == "postgresql":
        yield from _postgresql()


def _postgresql() -> Iterator[Finding]:
    most, used = int(_ask("SHOW max_connections")), int(_ask(CONNECTIONS))
    wanted = settings.WEB_PROCESSES * (settings.WEB_THREADS + 4)
    wanted += settings.COMPUTE_PROCESSES + 2
    text = f"{used} of {most} connections are in use; one machine needs up to {wanted}."
    if wanted > most or used > NEARLY_FULL * most:
        yield warning(text, "Raise max_connections, or lower WEB_THREADS.")
    else:
        yield ok(text)
    yield from _pooler()
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        if _ask(f"SHOW {setting}") == "off":
            yield failure(
                f"{setting} is off: a crash may lose writes that were acknowledged.",
                f"Set {setting} to on in postgresql.conf.",
            )
    for table, column, unused, largest in _sequences_behind():
        yield failure(
            f"The next {column} of {table} is {unused}, and those up to {largest} are "
            "taken: a dump was restored without its sequences. Writes fail.",
            "Run manage.py doctor --new-epoch.",
        )
    if idle := int(_ask(LONG_IDLE)):
        yield warning(
            f"{idle} transactions have been open and idle for an hour.",
            "They keep deleted rows on disk. End them: see pg_stat_activity.",
        )


def _pooler() -> Iterator[Finding]:
    """Check what the site cannot set itself where a pooler is in front."""
    if "DIRECT" not in connection.settings_dict:
        return
    with directly():
        _ask("SELECT 1")
    yield ok("The database itself answers, too, at DATABASE_DIRECT_URL.")
    for setting in ("statement_timeout", "lock_timeout", CHECK_INTERVAL):
        if _ask(f"SHOW {setting}") == "0":
            yield warning(
                f"{setting} is 0: what a client waits for no more goes on.",
                f"ALTER ROLE ... SET {setting}, as deploy/README.md has it.",
            )


CHECK_INTERVAL = "client_connection_check_interval"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
LONG_IDLE = """SELECT count(*) FROM pg_stat_activity
    WHERE state LIKE 'idle in transaction%' AND now() - xact_start > interval '1 h'"""


def _sequences_behind() -> Iterator[tuple[str, str, int, int]]:
    """Yield table, column, the next value of the sequence, and the largest one."""
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            for found in connection.introspection.get_sequences(cursor, table):
                name, column = quote(found["name"]), found["column"]
                cursor.execute(
                    f"SELECT (SELECT last_value + is_called::int FROM {name}), "  # noqa: S608
                    f"(SELECT max({quote(column)}) FROM {quote(table)})"
                )
                unused, largest = cursor.fetchone()
                if largest is not None and largest >= unused:
                    yield table, column, unused, largest


REPLICA = """SELECT pg_is_in_recovery(), count(*), count(received_tli)
    FROM pg_stat_wal_receiver"""


def replicas() -> Iterator[Finding]:
    for alias in settings.DATABASE_REPLICAS:
        replica = connections[alias]
        try:
            with replica.cursor() as cursor:
                cursor.execute(REPLICA)
                is_standby, receivers, known = cursor.fetchone()
        except DatabaseError as error:
            yield failure(f"{alias}: {describe(error)}", UNREACHABLE)
            continue
        finally:
            replica.close()
        if not is_standby:
            todo = (
                "Point DATABASE_URL at it if it is the primary now, or build it anew."
            )
            yield failure(f"{alias} is no standby.", todo)
        elif not receivers:
            todo = (
                "See its log: primary_conninfo, pg_hba.conf of the primary, its slot."
            )
            yield warning(f"{alias} receives nothing from its primary.", todo)
        elif not known:
            text = f"After a failover it takes minutes until {alias} is used."
            yield warning(text, "GRANT pg_monitor TO the role of the site.")
        else:
            yield ok(f"{alias} answers, and follows its primary.")


def repair_sequences() -> None:
    """Move the sequences that are behind their tables."""
    if connection.vendor != "postgresql":
        return
    behind = list(_sequences_behind())
    with connection.cursor() as cursor:
        for table, column, _, largest in behind:
            named = "pg_get_serial_sequence(%s, %s)"
            cursor.execute(
                f"SELECT setval({named}, %s)",  # noqa: S608
                [connection.ops.quote_name(table), column, largest],
            )


def _ask(question: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(question)
        return str(cursor.fetchone()[0])


def shared_cache() -> Iterator[Finding]:
    if not settings.REDIS_URL:
        yield ok("REDIS_URL is not set: each process caches in its own memory.")
        return
    try:
        redis = connect(REDIS_TIMEOUT_S)
    except ValueError:
        yield MALFORMED_URL
        return
    with redis as client:
        server, memory = client.info("server"), client.info("memory")
    yield ok(f"Redis {server['redis_version']} answers.")
    most, used = memory["maxmemory"], memory["used_memory"]
    policy = memory["maxmemory_policy"]
    if most and policy == "noeviction" and used > NEARLY_FULL * most:
        yield failure(
            f"Redis is full: {filesizeformat(used)} of {filesizeformat(most)}.",
            "Set maxmemory-policy to allkeys-lru.",
        )
    elif policy == "noeviction":
        yield warning(
            "Redis rejects writes when its memory is full.",
            "Set maxmemory, and maxmemory-policy to allkeys-lru.",
        )


def folder() -> Iterator[Finding]:
    path = settings.DATA_DIR
    probe = path / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        todo = "Make the user that runs the site its owner."
        yield failure(f"{path} is not writable: {error.strerror}.", todo)
        return
    if mode := path.stat().st_mode & 0o077:
        yield warning(
            f"Other users of the machine may use {path} (mode {0o700 | mode:o}).",
            f"Run chmod -R go= {path}",
        )
    free = shutil.disk_usage(path).free
    text = f"{path} is writable; {filesizeformat(free)} are free."
    if free < FULL_DISK_BYTES:
        yield failure(text, "Free disk space now: writes are about to fail.")
    elif free < LOW_DISK_BYTES:
        yield warning(text, "Free disk space soon.")
    else:
        yield ok(text)


def overrides() -> Iterator[Finding]:
    found = describe_all()
    for text in found:
        yield warning(text, "Remove the override on the status page when it is done.")
    if not found:
        yield ok("No circuit breaker is forced open or closed.")


def machine() -> Iterator[Finding]:
    # gunicorn.conf.py raises the soft limit.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    text = f"A process may open {files:,} files."
    if files != resource.RLIM_INFINITY and files < OPEN_FILES_WANTED:
        yield warning(text, f"Raise it to {OPEN_FILES_WANTED:,} (LimitNOFILE).")
    else:
        yield ok(text)


def reach(urls: str) -> Finding:
    """Check that something listens at each of the URLs, which `;` separates."""
    answering, silent = [], []
    for url in urls.split(";"):
        parts = urlsplit(url)
        host = parts.hostname or "localhost"
        try:
            port = parts.port or PORTS.get(parts.scheme, 5672)
        except ValueError:
            return MALFORMED_URL
        place = f"{host}:{port}"
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError as error:
            silent.append(f"{place} does not answer: {describe(error)}")
        else:
            answering.append(f"{place} answers.")
    text = " ".join([*answering, *silent])
    if not silent:
        return ok(text)
    say = warning if answering else failure
    return say(text, UNREACHABLE)


def register_all() -> None:
    register("settings", environment)
    register("machine", machine)
    register("folder", folder)
    register("database", database)
    if settings.DATABASE_REPLICAS:
        register("replicas", replicas)
    register("cache", shared_cache)
    register("overrides", overrides)
