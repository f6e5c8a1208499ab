"""The catalogue as a file: CSV or NDJSON, in the order of the ids, as a stream.

Items are read in chunks by key, so that memory stays constant and no transaction
stays open.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import orjson
from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from items import fields
from items.models import Item
from resilient_site.api.csv_escaping import render_csv
from resilient_site.api.downloads import stream_file

CHUNK_ROWS = 1_000
LINE_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
COLUMNS = (*(field.name for field in fields.FIELDS), *fields.READ_ONLY)


class Format(NamedTuple):
    content_type: str
    head: bytes
    encode: Callable[[Iterable[Item]], bytes]


def encode_csv(items: Iterable[Item]) -> bytes:
    return render_csv(
        [
            *(field.to_text(field.read(item)) for field in fields.FIELDS),
            item.version,
            item.created_at.isoformat(),
            item.updated_at.isoformat(),
        ]
        for item in items
    )


def encode_ndjson(items: Iterable[Item]) -> bytes:
    return b"".join(orjson.dumps(item.as_json(), option=LINE_OPTIONS) for item in items)


FORMATS = {
    "csv": Format(
        "text/csv; charset=utf-8", ",".join(COLUMNS).encode() + b"\r\n", encode_csv
    ),
    "ndjson": Format("application/x-ndjson", b"", encode_ndjson),
}


def export(name: str, items: QuerySet[Item]) -> Iterator[bytes]:
    """Yield the file of this format in pieces."""
    if head := FORMATS[name].head:
        yield head
    yield from map(FORMATS[name].encode, chunks(items))


def download(name: str, items: QuerySet[Item]) -> StreamingHttpResponse:
    """Return a response that streams the items as a file."""
    return stream_file(
        export(name, items),
        content_type=FORMATS[name].content_type,
        filename=f"items.{name}",
    )


def chunks(items: QuerySet[Item]) -> Iterator[list[Item]]:
    rows, last = items.order_by("pk"), None
    while True:
        page = rows if last is None else rows.filter(pk__gt=last)
        chunk = list(page[:CHUNK_ROWS])
        if chunk:
            yield chunk
        if len(chunk) < CHUNK_ROWS:
            return
        last = chunk[-1].pk
