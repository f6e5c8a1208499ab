"""The catalogue as a file: CSV or NDJSON, in the order of the ids, as a stream.

Read in chunks by key, so that memory stays constant and no transaction stays open.
"""

from collections.abc import Callable, Iterator

import orjson
from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from items import rules
from items.models import Item
from resilient_site.api.csv_escaping import render_csv
from resilient_site.api.downloads import stream_file

type Tell = Callable[[int], None]  # how many more rows have been read
type Export = Callable[[QuerySet[Item], Tell], Iterator[bytes]]

CHUNK_ROWS = 1_000
LINE_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
COLUMNS = (
    "id", "name", "description", "tags", "version", "created_at", "updated_at",
)  # fmt: skip


def ignore(rows: int) -> None:
    """Do nothing: nobody counts."""


def _chunks(rows: QuerySet[Item], tell: Tell) -> Iterator[list[Item]]:
    rows, last = rows.order_by("pk"), None
    while True:
        page = rows if last is None else rows.filter(pk__gt=last)
        chunk = list(page[:CHUNK_ROWS])
        if chunk:
            yield chunk
            tell(len(chunk))
        if len(chunk) < CHUNK_ROWS:
            return
        last = chunk[-1].pk


def as_csv(rows: QuerySet[Item], tell: Tell = ignore) -> Iterator[bytes]:
    yield ",".join(COLUMNS).encode() + b"\r\n"
    for chunk in _chunks(rows, tell):
        yield render_csv(
            (
                item.pk,
                item.name,
                item.description,
                " ".join(item.tag_names()),
                item.version,
                item.created_at.isoformat(),
                item.updated_at.isoformat(),
            )
            for item in chunk
        )


def as_ndjson(rows: QuerySet[Item], tell: Tell = ignore) -> Iterator[bytes]:
    for chunk in _chunks(rows, tell):
        yield b"".join(
            orjson.dumps(as_json(item), option=LINE_OPTIONS) for item in chunk
        )


def as_json(item: Item) -> dict[str, object]:
    """Return the item as REST and NDJSON show it."""
    return {
        "id": rules.public_id(item.pk),
        "name": item.name,
        "description": item.description,
        "tags": item.tag_names(),
        "version": item.version,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }


FORMATS: dict[str, tuple[str, Export]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "ndjson": ("application/x-ndjson", as_ndjson),
}


def download(name: str, items: QuerySet[Item]) -> StreamingHttpResponse:
    """Answer with the items as a file."""
    content_type, export = FORMATS[name]
    return stream_file(
        export(items, ignore), content_type=content_type, filename=f"items.{name}"
    )
