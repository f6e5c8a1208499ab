"""Backup of the database to a file, and restore.

A backup holds what was committed when it started, and is made while the site runs: by
pg_dump, or by SQLite's online backup.
"""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from django.db import connection

from resilient_site.models import Epoch, random_epoch
from resilient_site.postgres.direct import direct_settings


class BackupFailed(Exception):
    """The backup was not written, or the database not changed."""


def backup(path: Path) -> None:
    """Write the database to a new file; raise BackupFailed, and leave no file then."""
    if path.exists():
        raise BackupFailed(f"{path} exists.")
    with _written_whole(path) as unfinished:
        if connection.vendor == "postgresql":
            _run("pg_dump", "--format=custom", "--no-owner", f"--file={unfinished}")
        else:
            _copy_sqlite(Path(connection.settings_dict["NAME"]), unfinished)


def restore(path: Path) -> None:
    """Replace the data of a stopped site, or raise BackupFailed and change nothing."""
    if connection.vendor == "postgresql":
        _restore_postgresql(path)
        return
    target = Path(connection.settings_dict["NAME"])
    connection.close()
    with _written_whole(target) as unfinished:
        _copy_sqlite(path, unfinished)
        _renew_epoch_sqlite(unfinished)
        _close_sqlite(target)


def _restore_postgresql(path: Path) -> None:
    """Restore in one transaction, committed only when the whole file was read."""
    _run("pg_restore", "--list", str(path))
    # pg_restore drops only tables that are in the file. A later version of the site
    # may have created others that depend on them.
    names = map(connection.ops.quote_name, connection.introspection.table_names())
    begin = " ".join(["BEGIN;", *(f"DROP TABLE {name} CASCADE;" for name in names)])
    connection.close()
    options = ["--clean", "--if-exists", "--no-owner", "--file=-", str(path)]
    failure = ""
    with tempfile.TemporaryFile() as output:
        with _psql(output) as psql:
            try:
                psql.stdin.write(f"{begin}\n".encode())
                _run("pg_restore", *options, output=psql.stdin)
                psql.stdin.write(f"{_new_epoch_postgresql()} COMMIT;\n".encode())
            except (BackupFailed, BrokenPipeError) as error:
                failure = str(error)
        output.seek(0)
        if psql.returncode or failure:
            raise BackupFailed(
                output.read().decode(errors="replace").strip() or failure
            )


def _new_epoch_postgresql() -> str:
    """Return SQL for a new epoch: with the old data, or the old one would hold."""
    table, epoch = Epoch._meta.db_table, random_epoch()
    update = f"UPDATE {table} SET value = '{epoch}'"  # noqa: S608 - our own words
    # A backup of an earlier version of the site has no such table.
    return (
        f"RESET search_path; DO $$BEGIN IF to_regclass('{table}') IS NOT NULL THEN "
        f"{update}; END IF; END$$;"
    )


def _renew_epoch_sqlite(path: Path) -> None:
    table, named = Epoch._meta.db_table, "SELECT 1 FROM sqlite_master WHERE name = ?"
    with closing(sqlite3.connect(path)) as database, database:
        if database.execute(named, [table]).fetchone():
            update = f"UPDATE {table} SET value = ?"  # noqa: S608 - our own words
            database.execute(update, [random_epoch()])


def _psql(output: IO[bytes]) -> Any:
    """Start psql; its errors go to `output`."""
    return subprocess.Popen(  # noqa: S603 - our own words
        [_find("psql"), "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1"],
        env=os.environ | _login() | {"PGOPTIONS": "--client-min-messages=error"},
        bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=output,
    )  # fmt: skip


def _close_sqlite(path: Path) -> None:
    """Remove the journal. Raises BackupFailed while a process has the database open."""
    try:
        with closing(sqlite3.connect(path, timeout=1)) as database:
            database.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        raise BackupFailed(f"{path}: {error}. Stop the site first.") from error
    except sqlite3.DatabaseError:
        pass  # it is damaged, which may be the reason for the restore
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the file is complete on disk."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.touch(0o600)
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise BackupFailed(f"{error.strerror}: {path}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _copy_sqlite(source: Path, target: Path) -> None:
    url = source.resolve().as_uri()
    try:
        with (
            closing(sqlite3.connect(f"{url}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
            # A database of this site.
            new.execute("SELECT 1 FROM django_migrations LIMIT 1")
    except sqlite3.Error as error:
        raise BackupFailed(f"{source}: {error}") from error


def _run(program: str, *args: str, output: Any = subprocess.DEVNULL) -> None:
    done = subprocess.run(  # noqa: S603 - our own words, and the operator's path
        [_find(program), *args], env=os.environ | _login(),
        stdout=output, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BackupFailed(done.stderr.strip() or f"{program} ended with an error.")


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        text = f"{program} was not found: install PostgreSQL's client programs."
        raise BackupFailed(text)
    return found


def _login() -> dict[str, str]:
    """Return libpq's environment variables, which `ps` does not show."""
    database = direct_settings()
    options = database.get("OPTIONS", {})
    named = {
        "PGHOST": database["HOST"] or options.get("host"),
        "PGPORT": database["PORT"] or options.get("port"),
        "PGUSER": database["USER"],
        "PGPASSWORD": database["PASSWORD"],
        "PGDATABASE": database["NAME"],
        "PGSSLMODE": options.get("sslmode"),
        "PGSSLROOTCERT": options.get("sslrootcert"),
        # Of several hosts the primary.
        "PGTARGETSESSIONATTRS": options.get("target_session_attrs"),
    }
    return {name: str(value) for name, value in named.items() if value}
