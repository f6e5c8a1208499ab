import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from tqdm import tqdm

from items.imports import importing
from items.models import ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.errors import SiteError

RESUMABLE = "Whole batches were imported; --resume continues from there."


class Command(BaseCommand):
    help = (
        "Import items from CSV or NDJSON, gzip or not (recognized by the content). "
        "Items with a known id are updated; all others are created."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the file, or - for standard input")
        parser.add_argument(
            "--reject", type=Path, help="file for rejected rows (FILE.rejects.csv)"
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="continue where an interrupted run stopped",
        )
        parser.add_argument("--user", help="user whom the change log names")

    def handle(self, *args: Any, **options: Any) -> None:
        actor = _actor(options["user"])
        try:
            with _opened(options["file"]) as (file, path):
                run = self._begin(path, actor, resume=options["resume"])
                rejects = options["reject"] or _rejects_path(path)
                if rejects.exists() and (
                    not rejects.is_file() or (path and rejects.samefile(path))
                ):
                    raise CommandError(
                        f"{rejects} cannot be used for the rejected rows."
                    )
                run = self._import(run, file, actor, rejects)
        except SiteError as error:
            raise CommandError(f"{error.detail} {RESUMABLE}") from error
        except OSError as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(f"The database failed: {error} {RESUMABLE}") from error
        self.stdout.write(
            f"{run.created:,} items created, {run.updated:,} updated, "
            f"{run.unchanged:,} unchanged; {run.rejected:,} rows rejected."
        )
        if run.rejected:
            self.stderr.write(f"Rejected rows, with line and reason: {rejects}")

    def _begin(self, path: Path | None, actor: Actor, *, resume: bool) -> ImportRun:
        earlier = importing.unfinished(path) if path and resume else None
        if earlier:
            self.stderr.write(f"Resuming after line {earlier.line:,}.")
            return earlier
        return importing.begin(
            source=path.name if path else "standard input",
            path=str(path or "-"),
            actor=actor,
            size=path.stat().st_size if path else 0,
            fingerprint=importing.fingerprint(path) if path else "",
        )

    def _import(
        self, run: ImportRun, file: BufferedReader, actor: Actor, rejects: Path
    ) -> ImportRun:
        with tqdm(
            total=run.size or None, unit="B", unit_scale=True, disable=None, leave=False
        ) as bar:

            def show(run: ImportRun) -> None:
                bar.set_postfix_str(f"{run.created + run.updated:,} written")
                bar.update((file.tell() if run.size else run.offset) - bar.n)

            try:
                return importing.proceed(
                    run,
                    file,
                    actor=actor,
                    rejects=partial(importing.write_rejects, rejects),
                    on_batch=show,
                )
            except KeyboardInterrupt:
                raise CommandError(f"Stopped. {RESUMABLE}", returncode=130) from None


def _actor(username: str | None) -> Actor:
    if username is None:
        return Actor.from_command("import_items")
    try:
        return Actor(User.objects.get(username=username), username)
    except User.DoesNotExist:
        raise CommandError(f"There is no user “{username}”.") from None


@contextmanager
def _opened(name: str) -> Iterator[tuple[BufferedReader, Path | None]]:
    if name == "-":
        yield sys.stdin.buffer, None  # type: ignore[misc]
        return
    with open(name, "rb") as file:
        yield file, Path(name)


def _rejects_path(path: Path | None) -> Path:
    if path is None:
        return Path("standard-input.rejects.csv")
    return path.with_name(path.name + ".rejects.csv")
