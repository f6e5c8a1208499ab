"""The whole database into one file, and back.

A backup is what was committed when it began, made while the site goes on. PostgreSQL's
own programs do it there, SQLite's own way of copying here. What lies beside the
database needs none: it is made anew, but for the SECRET_KEY and your environment.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from django.db import connection


class BackupFailed(Exception):
    """Nothing was written, or nothing was changed."""


def backup(path: Path) -> None:
    """Write the database to a new file; raises BackupFailed, leaving none."""
    if path.exists():
        raise BackupFailed(f"{path} is there already.")
    with _written_whole(path) as unfinished:
        if connection.vendor == "postgresql":
            _run("pg_dump", "--format=custom", "--no-owner", f"--file={unfinished}")
        else:
            _copy_sqlite(Path(connection.settings_dict["NAME"]), unfinished)


def restore(path: Path) -> None:
    """Put what the file holds in place of all that is in the database.

    The site must be stopped. Raises BackupFailed, with the database as it was.
    """
    if connection.vendor == "postgresql":
        _run("pg_restore", "--list", str(path))
        options = ["--clean", "--if-exists", "--no-owner", "--single-transaction"]
        database = f"--dbname={connection.settings_dict['NAME']}"
        _run("pg_restore", *options, database, str(path))
        return
    target = Path(connection.settings_dict["NAME"])
    connection.close()
    with _written_whole(target) as unfinished:
        _copy_sqlite(path, unfinished)
        for suffix in ("-wal", "-shm"):  # of the database that goes
            Path(f"{target}{suffix}").unlink(missing_ok=True)


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Lend a path beside this one, which becomes this one when all is on the disk."""
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
    try:
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
            new.execute("SELECT 1 FROM django_migrations LIMIT 1")  # it is one of ours
    except sqlite3.Error as error:
        raise BackupFailed(f"{source}: {error}") from error


def _run(program: str, *args: str) -> None:
    if shutil.which(program) is None:
        raise BackupFailed(f"There is no {program}: install PostgreSQL's client.")
    command = [program, *args]
    done = subprocess.run(  # noqa: S603 - our own words, and the operator's path
        command, env=os.environ | _login(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BackupFailed(done.stderr.strip() or f"{program} ended with an error.")


def _login() -> dict[str, str]:
    """Return what libpq is told by its environment, where `ps` does not show it."""
    told: dict[str, Any] = connection.settings_dict
    options = told.get("OPTIONS", {})
    named = {
        "PGHOST": told["HOST"],
        "PGPORT": told["PORT"],
        "PGUSER": told["USER"],
        "PGPASSWORD": told["PASSWORD"],
        "PGDATABASE": told["NAME"],
        "PGSSLMODE": options.get("sslmode"),
        "PGSSLROOTCERT": options.get("sslrootcert"),
    }
    return {name: str(value) for name, value in named.items() if value}
