"""Import against a bare COPY, on PostgreSQL: rows per second.

    DATABASE_URL=postgres://… python -m tests.load.import_ratio [ROWS] [FILE.csv]

The peer copies the same rows, prepared beforehand, straight into the table of items
with its indexes and constraints, in batches of the same size: no check of a row, no
comparison, no tags, no change log. Both run in turn, three times, each on an empty
catalogue; the median of the ratios counts. Needs a database it may empty.
"""

import csv
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")
django.setup()

from django.db import connection, transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from items import importing, rules  # noqa: E402
from items.catalogue import Actor  # noqa: E402

TABLES = "items_itemtag, items_itemchange, items_item, items_tag, items_importrun"


def empty() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {TABLES}")
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE items_item")


def make_rows(number: int) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"part-{n:07}",
            f"Part {n:07} of the series {n % 997}",
            f"A part with the number {n}, made for machine {n * 7919 % 10007} "
            f"and stored in hall {n % 41}; weight {n % 5000} g",
            "part spare" if n % 2 else "part",
        )
        for n in range(number)
    ]


def read_rows(path: str, number: int) -> list[tuple[str, str, str, str]]:
    with open(path, newline="") as file:
        rows = [
            (row["id"], row["name"], row["description"], row.get("tags", ""))
            for row in csv.DictReader(file)
        ]
    return rows[:number]


def bare_copy(rows: list[tuple[str, str, str, str]]) -> float:
    now = timezone.now()
    ready = [
        (pk, name, text, 1, now, now, rules.search_text(name, text))
        for pk, name, text, _ in rows
    ]
    size = importing.BATCH_ROWS
    begin = time.perf_counter()
    for start in range(0, len(ready), size):
        with (
            transaction.atomic(),
            connection.cursor() as cursor,
            cursor.copy(
                "COPY items_item (id, name, description, version, created_at, "
                "updated_at, search_text) FROM STDIN"
            ) as copy,
        ):
            for row in ready[start : start + size]:
                copy.write_row(row)
    return time.perf_counter() - begin


def whole_import(path: Path) -> float:
    actor = Actor.command("import_ratio")
    run = importing.begin(source="rows", path=str(path), actor=actor)
    begin = time.perf_counter()
    with open(path, "rb") as file:
        run = importing.proceed(
            run, file, actor=actor, rejects=importing.into(path.with_suffix(".r"))
        )
    assert not run.rejected, run
    return time.perf_counter() - begin


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rows = read_rows(sys.argv[2], number) if len(sys.argv) > 2 else make_rows(number)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["id", "name", "description", "tags"])
        writer.writerows(rows)
        path.write_text(text.getvalue())
        ratios = []
        for _ in range(3):
            empty()
            copied = bare_copy(rows)
            empty()
            imported = whole_import(path)
            ratios.append(copied / imported)
            print(
                f"bare COPY {len(rows) / copied:9,.0f} rows/s   "
                f"import {len(rows) / imported:9,.0f} rows/s   "
                f"ratio {ratios[-1]:.2f}"
            )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
