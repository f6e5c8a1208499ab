"""Search and lists at a million items.

    DATABASE_URL=postgres://… python -m tests.load.search

Fills the catalogue up to a million made-up items, then asks for the first page of
each search in each order, seven times, and prints the median in milliseconds.
"""

import os
import random
import statistics
import time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")
django.setup()

from django.db import connection  # noqa: E402

from items import staging  # noqa: E402
from items.catalogue import Actor  # noqa: E402
from items.models import Item  # noqa: E402
from items.selection import Selection  # noqa: E402
from items.staging import Row  # noqa: E402

ITEMS = 1_000_000
WORDS = """
    amber anchor basalt beacon binder bracket cable carbon ceramic clamp copper dock
    engine filter flange gasket girder granite hinge insulator joint keel kiln
    lantern lever magnet marble motor needle nozzle oxide panel pigment piston
    pulley quartz radial rivet rotor sensor shaft sleeve socket spindle tension
    thermal timber turbine valve vessel washer zinc
""".split()  # noqa: SIM905 - easier to read
SEARCHES = (
    "zinc", "turbine valve", "urbin", "serial 777777", "q9x", "carbon fibre marble",
    "nothinglikethis", "se", "zz", "7777",
)  # fmt: skip
ORDERINGS = ("name", "-updated_at", "id")


def fill() -> None:
    present = Item.objects.filter(pk__startswith="load-").count()
    if present >= ITEMS:
        return
    chance = random.Random(1)  # noqa: S311 - the same data every time
    for start in range(present, ITEMS, 10_000):
        rows = []
        for n in range(start, start + 10_000):
            name = " ".join(chance.choices(WORDS, k=3))
            text = " ".join(chance.choices(WORDS, k=12))
            rare = " carbon fibre marble" if n % 4001 == 0 else ""
            tags = "common rare" if n % 5003 == 0 else "common"
            rows.append(
                Row(f"load-{n}", f"{name} {n}", f"Serial {n}: {text}{rare}", tags)
            )
        staging.apply(rows, actor=Actor.command("load"))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE items_item")
        cursor.execute("VACUUM ANALYZE items_itemtag")


def measure(label: str, **query: object) -> None:
    selection = Selection(**query)
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        page = selection.page(cursor=None, size=50)
        times.append((time.perf_counter() - begin) * 1000)
    print(
        f"{label:28} by {selection.ordering:12} {statistics.median(times):7.1f} ms "
        f"(first {times[0]:6.1f})  {len(page.rows)} rows"
    )


def main() -> None:
    fill()
    for ordering in ORDERINGS:
        for text in SEARCHES:
            measure(f"search {text!r}", search=text, ordering=ordering)
        for tag in ("common", "rare"):
            measure(f"tag {tag}", tags=(tag,), ordering=ordering)
        measure("everything", ordering=ordering)


if __name__ == "__main__":
    main()
