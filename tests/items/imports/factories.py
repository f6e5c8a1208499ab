"""Streams and imports of given content, and what they leave."""

import csv
import io
from dataclasses import asdict
from functools import partial
from pathlib import Path

from items.imports import comparing, importing
from items.imports.differences import PreviewRow
from items.imports.file_parsing import read_rows
from items.imports.formats import FileFormat
from items.imports.recognition import recognize
from items.imports.rejects import write_rejects
from items.models import ImportRun
from tests.factories import TESTER


def stream(content: str | bytes) -> io.BufferedReader:
    raw = content.encode() if isinstance(content, str) else content
    return io.BufferedReader(io.BytesIO(raw))


def lines(content: str | bytes, **options):
    file = stream(content)
    form = recognize(file, **options)
    return list(read_rows(file, form, **options).lines)


def preview(content: str | bytes, **chosen) -> comparing.Preview:
    file = stream(content)
    return comparing.preview(file, recognize(file, FileFormat(**chosen)))


def preview_rows(content: str | bytes, **chosen) -> list[PreviewRow]:
    file, rows = stream(content), list[PreviewRow]()
    comparing.preview(file, recognize(file, FileFormat(**chosen)), on_row=rows.append)
    return rows


def begin(**chosen) -> ImportRun:
    form = asdict(FileFormat(**chosen))
    return importing.begin(source="test", path="-", actor=TESTER, format=form)


def proceed(run: ImportRun, content: str | bytes, folder: Path, **options) -> ImportRun:
    rejects = partial(write_rejects, folder / "rejects.csv")
    return importing.proceed(
        run, stream(content), actor=TESTER, rejects=rejects, **options
    )


def load(content: str | bytes, folder: Path, **chosen) -> ImportRun:
    return proceed(begin(**chosen), content, folder)


def rejects(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rejects.csv", newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def counts(run: ImportRun) -> tuple[int, int, int, int]:
    return run.created, run.updated, run.unchanged, run.rejected
