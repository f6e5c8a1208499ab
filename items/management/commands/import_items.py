import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from items.imports import importing
from items.models import ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.errors import SiteError

ACTOR = Actor(None, "import_items")


class Command(BaseCommand):
    help = (
        "Import items from CSV or NDJSON, gzip or not (recognized by the content). "
        "Items with a known id are updated; all others are created."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the file, or - for standard input")
        parser.add_argument(
            "--resume",
            action="store_true",
            help="continue where an interrupted run stopped",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path = None if options["file"] == "-" else Path(options["file"])
        if options["resume"] and not path:
            raise CommandError("An import of standard input cannot be resumed.")
        name = path.name if path else "standard-input"
        rejects = Path(f"{path or name}.rejects.csv")
        run: ImportRun | None = None
        try:
            with open(path, "rb") if path else nullcontext(sys.stdin.buffer) as file:
                run = self._begin(path, name, resume=options["resume"])
                importing.proceed(
                    run,
                    file,  # type: ignore[arg-type]
                    actor=ACTOR,
                    rejects=partial(importing.write_rejects, rejects),
                    on_batch=self._show,
                )
        except KeyboardInterrupt:
            raise CommandError(f"Stopped.{_imported(run)}", returncode=130) from None
        except SiteError as error:
            raise CommandError(f"{error.detail}{_imported(run)}") from error
        except OSError as error:
            raise CommandError(f"{error}.{_imported(run)}") from error
        except DatabaseError as error:
            raise CommandError(
                f"The database failed: {error}{_imported(run)}"
            ) from error
        self.stdout.write(
            f"{run.created:,} items created, {run.updated:,} updated, "
            f"{run.unchanged:,} unchanged; {run.rejected:,} rows rejected."
        )
        if run.rejected:
            self.stderr.write(f"Rejected rows, with line and reason: {rejects}")

    def _begin(self, path: Path | None, name: str, *, resume: bool) -> ImportRun:
        earlier = importing.unfinished(path) if path and resume else None
        if earlier:
            self.stderr.write(f"Resuming after line {earlier.line:,}.")
            return earlier
        return importing.begin(
            source=name,
            path=str(path or "-"),
            actor=ACTOR,
            fingerprint=importing.fingerprint(path) if path else "",
        )

    def _show(self, run: ImportRun) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{run.line:,} lines", ending="")


def _imported(run: ImportRun | None) -> str:
    """Return what an import that failed has done, and how to continue it."""
    if not run or not run.line:
        return " Nothing was imported."
    resume = "; --resume continues after them" if run.fingerprint else ""
    return f" The first {run.line:,} lines were imported{resume}."
