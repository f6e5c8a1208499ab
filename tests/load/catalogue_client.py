"""Measured functions of the catalogue, called by name.

The peer of an import copies the same rows, prepared beforehand, straight into the table
of items with its indexes and constraints, in batches of the same size: no check of a
row, no comparison, no tags, no change log.
"""

import csv
import io
import json
import time
from itertools import batched

from django.db import connection, transaction
from django.utils import timezone

from compute.models import Job
from items import fields
from items.changes import feed
from items.collections import editing
from items.imports import importing
from items.imports.batch import BATCH_ROWS
from items.models import Collection, Item, ItemChange
from resilient_site.accounts.actor import Actor
from resilient_site.api.keyset import Cursor
from resilient_site.models import Epoch
from tests.load import job_client
from tests.load.rows import (
    COLLECTIONS,
    PLACED_COLUMNS,
    SCHEMA,
    attributes,
    placed_rows,
)
from tests.private_server import wait_for

CHANGE_MAX_S = 600
TABLES = "items_itemtag, items_itemchange, items_item, items_tag, items_importrun"
COPY = """
    COPY items_item
        (id, name, description, collection_id, code, attributes, version, created_at,
         updated_at, search_text, sort_key)
    FROM STDIN
"""


def empty() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {TABLES} CASCADE")
    vacuum()


def vacuum() -> None:
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def copied_per_second(number: int) -> float:
    empty()
    make_collections()
    now, ready = timezone.now(), []
    for n, (pk, name, text, _, key, code, *_) in enumerate(placed_rows(0, number)):
        state = {"code": code, "name": name, "description": text}
        derived = fields.search_columns(fields.empty_state() | state)
        values = json.dumps(attributes(n // len(COLLECTIONS)))
        row = (pk, name, text, key, code, values, 1, now, now, *derived.values())
        ready.append(row)
    begin = time.perf_counter()
    for batch in batched(ready, BATCH_ROWS, strict=False):
        with (
            transaction.atomic(),
            connection.cursor() as cursor,
            cursor.copy(COPY) as copy,
        ):
            for row in batch:
                copy.write_row(row)
    return number / (time.perf_counter() - begin)


def imported_per_second(number: int) -> float:
    empty()
    make_collections()
    text = io.StringIO(newline="")
    csv.writer(text).writerows([PLACED_COLUMNS, *placed_rows(0, number)])
    file = io.BufferedReader(io.BytesIO(text.getvalue().encode()))
    actor = Actor(None, "bench")
    run = importing.begin(source="rows", path="-", actor=actor)
    begin = time.perf_counter()
    run = importing.proceed(run, file, actor=actor, rejects=lambda rejects, size: size)
    took = time.perf_counter() - begin
    assert run.created == number, run
    return number / took


def changed_per_second(number: int) -> float:
    """Give all items another value of an attribute, by a job of the pool."""
    imported_per_second(number)
    vacuum()
    change = {"size": 5_000}  # which none of them has
    job = job_client.submit("change_items", all=True, set_attributes=change)
    wait_for(lambda: Job.objects.get(pk=job.pk).finished_at, CHANGE_MAX_S)
    job.refresh_from_db()
    assert job.state == Job.State.SUCCEEDED, job.error_detail
    assert job.result["changed"] == number, job.result
    return number / (job.finished_at - job.started_at).total_seconds()


# --- the growing catalogue


def make_collections() -> None:
    known = set(Collection.objects.values_list("pk", flat=True))
    for key in sorted({*COLLECTIONS} - known):
        data = {"key": key, "name": key, "schema": SCHEMA}
        editing.create_collection(editing.clean(data))


# --- cursors in a large catalogue


def cursor_of_page(number: int, size: int) -> str:
    """Return the cursor of this page of the list by name."""
    last = Item.objects.order_by("sort_key", "pk")[(number - 1) * size - 1]
    return Cursor("sort_key", False, (last.sort_key, last.pk)).encode()


def cursor_in_changes() -> str:
    """Return a cursor in the middle of the change log."""
    middle = ItemChange.objects.order_by("pk")[ItemChange.objects.count() // 2]
    return feed.cursor_of(Epoch.current(), feed.position_of(middle))
