"""The catalogue as a file: CSV, NDJSON or a workbook, in the order of the ids.

Items are read in chunks by key, so that memory stays constant and no transaction
stays open. A workbook, which cannot be sent before it is whole, is made on disk.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from items.imports.flat_columns import Layout, flat_layout, plain_layout
from items.models import Item
from resilient_site.api import json_format
from resilient_site.api.csv_escaping import render_csv
from resilient_site.api.downloads import stream_file
from resilient_site.errors import Invalid

CHUNK_ROWS = 1_000
PIECE_BYTES = 64 * 1024
WORKBOOK_MAX_ITEMS = 1_048_575  # the rows of a sheet, less the names of the columns


class Format(NamedTuple):
    label: str
    extension: str
    content_type: str
    encode: Callable[[Iterable[list[Item]], Layout], Iterator[bytes]]


def _encode_csv(chunks: Iterable[list[Item]], layout: Layout) -> Iterator[bytes]:
    yield ",".join(layout.names).encode() + b"\r\n"
    for items in chunks:
        yield render_csv(map(layout.cells, items))


def _encode_csv_for_excel(
    chunks: Iterable[list[Item]], layout: Layout
) -> Iterator[bytes]:
    """Begin with the mark by which Excel knows UTF-8."""
    yield b"\xef\xbb\xbf"
    yield from _encode_csv(chunks, layout)


def _encode_ndjson(chunks: Iterable[list[Item]], layout: Layout) -> Iterator[bytes]:
    for items in chunks:
        yield b"".join(json_format.encode(i.as_json()) + b"\n" for i in items)


def _encode_xlsx(chunks: Iterable[list[Item]], layout: Layout) -> Iterator[bytes]:
    import xlsxwriter

    # Each row is written to disk; texts stay texts: no numbers, links, formulas.
    with TemporaryFile() as file:
        with xlsxwriter.Workbook(file, {"constant_memory": True}) as workbook:
            # No time of its own: the same items make the same file.
            workbook.set_properties({"created": datetime(2000, 1, 1, tzinfo=UTC)})
            sheet = workbook.add_worksheet("items")
            _write_row(sheet, 0, layout.names)
            for number, item in enumerate(chain.from_iterable(chunks), 1):
                if number > WORKBOOK_MAX_ITEMS:
                    raise Invalid(
                        f"A workbook has room for {WORKBOOK_MAX_ITEMS:,} items, and "
                        "this selection has more. Export it as CSV."
                    )
                _write_row(sheet, number, layout.cells(item))
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            yield piece


def _write_row(sheet: Any, number: int, cells: Iterable[str | int]) -> None:
    for column, cell in enumerate(cells):
        if isinstance(cell, int):
            sheet.write_number(number, column, cell)
        elif cell and sheet.write_string(number, column, cell):
            raise Invalid(
                "A cell of a workbook has room for 32,767 characters, and an item has "
                "more. Export it as CSV, or with a column for each attribute."
            )


FORMATS = {
    "csv": Format("CSV", "csv", "text/csv; charset=utf-8", _encode_csv),
    "csv-excel": Format(
        "CSV for Excel", "csv", "text/csv; charset=utf-8", _encode_csv_for_excel
    ),
    "ndjson": Format("NDJSON", "ndjson", "application/x-ndjson", _encode_ndjson),
    "xlsx": Format(
        "Excel",
        "xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        _encode_xlsx,
    ),
}


def export(
    name: str,
    items: QuerySet[Item],
    *,
    flat: bool = False,
    on_chunk: Callable[[list[Item]], None] | None = None,
) -> Iterator[bytes]:
    """Yield the file of this format in pieces; raises Invalid if it has no room.

    With `flat` each attribute and label has a column of its own; raises Invalid if the
    format has no columns.
    """
    if flat and name == "ndjson":
        raise Invalid(errors={"flat": ["NDJSON has no columns. Leave this out."]})
    layout = flat_layout(items) if flat else plain_layout()
    return FORMATS[name].encode(chunks(items, on_chunk), layout)


def download(
    name: str, items: QuerySet[Item], *, flat: bool = False
) -> StreamingHttpResponse:
    """Return a response that streams the items as a file; raises as `export`."""
    form = FORMATS[name]
    return stream_file(
        export(name, items, flat=flat),
        content_type=form.content_type,
        filename=f"items.{form.extension}",
    )


def chunks(
    items: QuerySet[Item], on_chunk: Callable[[list[Item]], None] | None = None
) -> Iterator[list[Item]]:
    rows, last = items.order_by("pk"), None
    while True:
        page = rows if last is None else rows.filter(pk__gt=last)
        chunk = list(page[:CHUNK_ROWS])
        if chunk:
            yield chunk
            if on_chunk:
                on_chunk(chunk)
        if len(chunk) < CHUNK_ROWS:
            return
        last = chunk[-1].pk
