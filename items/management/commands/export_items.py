import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.http import QueryDict
from django.utils.http import urlencode

from items.imports.exporting import FORMATS, export
from items.list_query import ListQuery
from resilient_site.errors import Invalid

BY_EXTENSION = {".ndjson": "ndjson", ".jsonl": "ndjson", ".xlsx": "xlsx"}


class Command(BaseCommand):
    help = (
        "Export the catalogue as CSV, NDJSON or a workbook (.xlsx); compressed if FILE "
        "ends in .gz."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the file, or - for standard output")
        parser.add_argument(
            "--format", choices=FORMATS, help="by the name of the file, else csv"
        )
        parser.add_argument(
            "--flat",
            action="store_true",
            help="a column for each attribute and label",
        )
        parser.add_argument("--collection", action="append", default=[])
        parser.add_argument("--search", default="")
        parser.add_argument("--tag", action="append", default=[])

    def handle(self, *args: Any, **options: Any) -> None:
        name: str = options["file"]
        names = ("search", "tag", "collection")
        query = urlencode({name: options[name] for name in names}, True)
        extension = Path(name.removesuffix(".gz")).suffix
        form = options["format"] or BY_EXTENSION.get(extension, "csv")
        try:
            items = ListQuery.parse(QueryDict(query)).items()
            pieces = export(form, items, flat=options["flat"])
        except Invalid as error:
            raise CommandError(f"{error.errors}") from error
        try:
            self._write(name, pieces)
        except Invalid as error:
            raise CommandError(error.detail) from error

    def _write(self, name: str, pieces: Iterator[bytes]) -> None:
        if name == "-":
            sys.stdout.buffer.writelines(pieces)
            sys.stdout.buffer.flush()
            return
        path = Path(name).resolve()
        # Atomic: a reader never sees half of an export. A device or a pipe, though, is
        # written to, not replaced.
        whole = path.is_file() or not path.exists()
        draft = path.with_name(f".{path.name}.{os.getpid()}") if whole else path
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(draft, "wb") as file:
                file.writelines(pieces)
            if whole:
                draft.replace(path)
        except OSError as error:
            raise CommandError(str(error)) from error
        finally:
            if whole:
                draft.unlink(missing_ok=True)
