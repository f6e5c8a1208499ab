"""The catalogue as a file: CSV or NDJSON, in the order of the ids, as a stream.

Items are read in chunks by key, so that memory stays constant and no transaction
stays open.
"""

from collections.abc import Callable, Iterator

import orjson
from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from items import fields
from items.models import Item
from resilient_site.api.csv_escaping import render_csv
from resilient_site.api.downloads import stream_file

# Called with the number of rows that were just written.
type OnRows = Callable[[int], None]
type Export = Callable[[QuerySet[Item], OnRows | None], Iterator[bytes]]

CHUNK_ROWS = 1_000
LINE_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
COLUMNS = (*(field.name for field in fields.FIELDS), *fields.READ_ONLY)


def export_csv(rows: QuerySet[Item], on_rows: OnRows | None = None) -> Iterator[bytes]:
    yield ",".join(COLUMNS).encode() + b"\r\n"
    for chunk in _chunks(rows, on_rows):
        yield render_csv(map(_cells, chunk))


def export_ndjson(
    rows: QuerySet[Item], on_rows: OnRows | None = None
) -> Iterator[bytes]:
    for chunk in _chunks(rows, on_rows):
        yield b"".join(
            orjson.dumps(item.as_json(), option=LINE_OPTIONS) for item in chunk
        )


FORMATS: dict[str, tuple[str, Export]] = {
    "csv": ("text/csv; charset=utf-8", export_csv),
    "ndjson": ("application/x-ndjson", export_ndjson),
}


def download(name: str, items: QuerySet[Item]) -> StreamingHttpResponse:
    """Return a response that streams the items as a file."""
    content_type, export = FORMATS[name]
    return stream_file(
        export(items, None), content_type=content_type, filename=f"items.{name}"
    )


def _chunks(rows: QuerySet[Item], on_rows: OnRows | None) -> Iterator[list[Item]]:
    rows, last = rows.order_by("pk"), None
    while True:
        page = rows if last is None else rows.filter(pk__gt=last)
        chunk = list(page[:CHUNK_ROWS])
        if chunk:
            yield chunk
            if on_rows:
                on_rows(len(chunk))
        if len(chunk) < CHUNK_ROWS:
            return
        last = chunk[-1].pk


def _cells(item: Item) -> list[object]:
    return [
        *(field.to_text(field.read(item)) for field in fields.FIELDS),
        item.version,
        item.created_at.isoformat(),
        item.updated_at.isoformat(),
    ]
