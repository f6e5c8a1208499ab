import gzip
import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.http import QueryDict
from django.utils.http import urlencode

from items.imports.exporting import FORMATS, export
from items.list_query import ListQuery
from resilient_site.errors import Invalid


class Command(BaseCommand):
    help = "Export the catalogue as CSV or NDJSON; compressed if FILE ends in .gz."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the file, or - for standard output")
        parser.add_argument(
            "--format", choices=FORMATS, help="by the name of the file, else csv"
        )
        parser.add_argument("--search", default="")
        parser.add_argument("--tag", action="append", default=[])

    def handle(self, *args: Any, **options: Any) -> None:
        name: str = options["file"]
        query = urlencode({"search": options["search"], "tag": options["tag"]}, True)
        try:
            items = ListQuery.parse(QueryDict(query)).items()
        except Invalid as error:
            raise CommandError(f"{error.errors}") from error
        is_ndjson = name.removesuffix(".gz").endswith((".ndjson", ".jsonl"))
        default = "ndjson" if is_ndjson else "csv"
        pieces = export(options["format"] or default, items)
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
