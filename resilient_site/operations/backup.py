"""The whole database into one file, and back.

A backup is what was committed when it began, made while the site goes on. PostgreSQL's
own programs do it there, SQLite's own way of copying here. What lies beside the
database needs none: it is made anew, but for the SECRET_KEY and your environment.
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
        _restore_postgresql(path)
        return
    target = Path(connection.settings_dict["NAME"])
    connection.close()
    with _written_whole(target) as unfinished:
        _copy_sqlite(path, unfinished)
        _close_sqlite(target)


def _restore_postgresql(path: Path) -> None:
    """Do it in one transaction, which ends well only when all of the file was read."""
    _run("pg_restore", "--list", str(path))
    # pg_restore drops what is in the file. A later version of the site may have made
    # more, and that may hang on it.
    names = map(connection.ops.quote_name, connection.introspection.table_names())
    begin = " ".join(["BEGIN;", *(f"DROP TABLE {name} CASCADE;" for name in names)])
    connection.close()
    options = ["--clean", "--if-exists", "--no-owner", "--file=-", str(path)]
    failure = ""
    with tempfile.TemporaryFile() as said:
        with _psql(said) as psql:
            try:
                psql.stdin.write(f"{begin}\n".encode())
                _run("pg_restore", *options, output=psql.stdin)
                psql.stdin.write(b"COMMIT;\n")
            except (BackupFailed, BrokenPipeError) as error:
                failure = str(error)
        said.seek(0)
        if psql.returncode or failure:
            raise BackupFailed(said.read().decode(errors="replace").strip() or failure)


def _psql(said: IO[bytes]) -> Any:
    """Start it; what it has to complain of goes to `said`."""
    return subprocess.Popen(  # noqa: S603 - our own words
        [_find("psql"), "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1"],
        env=os.environ | _login() | {"PGOPTIONS": "--client-min-messages=error"},
        bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
    )  # fmt: skip


def _close_sqlite(path: Path) -> None:
    """Leave no journal behind. Raises BackupFailed while somebody has it open."""
    try:
        with closing(sqlite3.connect(path, timeout=1)) as database:
            database.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        raise BackupFailed(f"{path}: {error}. Stop the site first.") from error
    except sqlite3.DatabaseError:
        pass  # it is damaged, which may be why there is to be another one
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


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
        raise BackupFailed(f"There is no {program}: install PostgreSQL's client.")
    return found


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
