import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from items.imports import importing
from items.imports.columns import parse_columns
from items.imports.comparing import describe_missing, preview
from items.imports.differences import difference_writer
from items.imports.formats import (
    DELIMITERS,
    DUPLICATES,
    ENCODINGS,
    MISSING,
    MODES,
    FileFormat,
)
from items.imports.recognition import recognize
from items.imports.rejects import Rejects, write_rejects
from items.integrity import describe
from items.models import ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.errors import SiteError

ACTOR = Actor(None, "import_items")


class Command(BaseCommand):
    help = (
        "Import items from CSV, Excel (.xlsx), a JSON array or NDJSON, gzip or not "
        "(recognized by the content). Items with a known id, or code, are updated; all "
        "others are created."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the file, or - for standard input")
        parser.add_argument(
            "--resume",
            action="store_true",
            help="continue where an interrupted run stopped",
        )
        parser.add_argument(
            "--collection",
            default="",
            metavar="KEY",
            help="of the rows that name none",
        )
        parser.add_argument(
            "--mode",
            choices=MODES,
            default="merge",
            help="make_equal also retires the items of the collection that the file "
            "does not have (default: merge)",
        )
        parser.add_argument(
            "--missing",
            choices=MISSING,
            default="",
            help="what happens to items of the collection that the file does not have",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="write what would differ to FILE.differences.csv, and change nothing",
        )
        parser.add_argument(
            "--delimiter",
            choices=DELIMITERS,
            default="",
            help="between the cells of CSV; default: recognized",
        )
        parser.add_argument(
            "--encoding", choices=ENCODINGS, default="", help="default: recognized"
        )
        parser.add_argument(
            "--sheet", default="", help="of a workbook; default: the first"
        )
        parser.add_argument(
            "--column",
            action="append",
            default=[],
            metavar="NAME=FIELD",
            help="which field a column of the file is, or attributes.NAME, "
            "labels.LANGUAGE; NAME= leaves it out",
        )
        parser.add_argument(
            "--duplicates",
            choices=DUPLICATES,
            default="reject",
            help="of rows with the same id, reject all but the first or let the last "
            "count (default: reject)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path = None if options["file"] == "-" else Path(options["file"])
        if options["resume"] and not path:
            raise CommandError("An import of standard input cannot be resumed.")
        name = path.name if path else "standard-input"
        prefix = f"{path or name}.rejects"
        run: ImportRun | None = None
        try:
            names = [field.name for field in fields(FileFormat)]
            chosen = FileFormat(
                columns=parse_columns(options["column"]),
                **{name: options[name] for name in names if name in options},
            )
            with open(path, "rb") if path else _standard_input() as file:
                if options["dry_run"]:
                    self._compare(file, chosen, Path(f"{path or name}.differences.csv"))
                    return
                run = self._begin(path, name, chosen, resume=options["resume"])
                importing.proceed(
                    run,
                    file,  # type: ignore[arg-type]
                    actor=ACTOR,
                    rejects=partial(_write_rejects, prefix),
                    on_batch=self._show,
                )
        except KeyboardInterrupt:
            raise CommandError(f"Stopped.{_imported(run)}", returncode=130) from None
        except SiteError as error:
            detail = describe(error.errors) if error.errors else error.detail
            raise CommandError(f"{detail}{_imported(run)}") from error
        except OSError as error:
            raise CommandError(f"{error}.{_imported(run)}") from error
        except DatabaseError as error:
            raise CommandError(
                f"The database failed: {error}{_imported(run)}"
            ) from error
        form = importing.format_of(run)
        self.stderr.write(f"Read as {form.description}.")
        self.stdout.write(
            f"{run.created:,} items created, {run.updated:,} updated, "
            f"{run.unchanged:,} unchanged; {run.rejected:,} rows rejected."
        )
        if described := importing.describe_missing(run):
            self.stdout.write(described)
        if run.rejected:
            rejects = f"{prefix}.{'ndjson' if form.is_json else 'csv'}"
            self.stderr.write(f"Rejected rows, with line and reason: {rejects}")

    def _compare(self, file: Any, chosen: FileFormat, path: Path) -> None:
        form = recognize(file, chosen)
        with open(path, "wb") as out:
            write = difference_writer(out.write)
            result = preview(file, form, seconds=math.inf, on_row=write)
        if result.problem:
            raise CommandError(result.problem)
        self.stderr.write(f"Read as {form.description}.")
        self.stdout.write(
            f"Nothing was changed: {result.created:,} items would be created, "
            f"{result.updated:,} updated, {result.unchanged:,} unchanged; "
            f"{result.rejected:,} rows rejected."
        )
        if described := describe_missing(result, form):
            self.stdout.write(described)
        self.stderr.write(f"What would differ: {path}")

    def _begin(
        self, path: Path | None, name: str, chosen: FileFormat, *, resume: bool
    ) -> ImportRun:
        if path and resume:
            earlier = importing.unfinished(path)
            if earlier is None:
                raise CommandError(
                    "There is no interrupted import of this file as it is now: it was "
                    "changed, or is imported already. Without --resume it is imported "
                    "from the start. Nothing was imported."
                )
            self.stderr.write(f"Resuming after line {earlier.line:,}.")
            return earlier
        return importing.begin(
            source=name,
            path=str(path or "-"),
            actor=ACTOR,
            fingerprint=importing.fingerprint(path) if path else "",
            format=asdict(chosen),
        )

    def _show(self, run: ImportRun) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{run.line:,} lines", ending="")


@contextmanager
def _standard_input() -> Iterator[IO[bytes]]:
    """Yield a copy of it: an import reads a file more than once."""
    with TemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


def _write_rejects(prefix: str, rejects: Rejects, size: int) -> int:
    return write_rejects(Path(f"{prefix}.{rejects.extension}"), rejects, size)


def _imported(run: ImportRun | None) -> str:
    """Return what an import that failed has done, and how to continue it."""
    if run and run.state == ImportRun.State.FAILED:
        return f" {importing.describe_imported(run)}"
    if not run or not run.line:
        return " Nothing was imported."
    resume = "; --resume continues after them" if run.fingerprint else ""
    return f" The first {run.line:,} lines were imported{resume}."
