"""The catalogue in and out as a file: how fast, and in how much memory."""

from collections.abc import Iterator
from functools import partial

from tests.load.bench.catalogue import Command
from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import RATIO, Goal, Piece, Row, Table, ratios
from tests.load.remote_process import RemoteProcess
from tests.load.rows import TAGS
from tests.load.testbed import pool

TITLE = "Import and export"
COPY, IMPORT = "a bare COPY into the table of items", "an import, change log included"
CHANGED = Goal("≥", 10_000)
CHANGE = "set by the job change_items, in parts"
# The same but for what the allocator happens to do.
CONSTANT = Goal("≤", 1.1)


def measure(bench: Bench) -> Iterator[Piece]:
    number, env = bench.scale.imported, bench.testbed.on_postgres()
    with RemoteProcess("tests.load.catalogue_client", env) as client, pool(env):
        turns = {
            COPY: partial(client.call, "copied_per_second", number),
            IMPORT: partial(client.call, "imported_per_second", number),
        }
        rates = in_turns(bench.scale.few_rounds, turns)
        changed = bench.scale.changed
        change = {CHANGE: partial(client.call, "changed_per_second", changed)}
        changes = in_turns(bench.scale.few_rounds, change)[CHANGE]
    title = f"{number:,} rows into an empty catalogue"
    rows = [Row(name, values) for name, values in rates.items()]
    yield Table(title, "rows a second", rows)
    ratio = Row("import to COPY", ratios(rates[IMPORT], rates[COPY]), Goal("≥", 0.25))
    yield Table(title, RATIO, [ratio])
    title = f"An attribute of {changed:,} items in 20 collections"
    yield Table(title, "rows a second", [Row(CHANGE, changes, CHANGED)])
    catalogue = bench.catalogue
    for size in bench.scale.sizes:
        catalogue.grow(size)
    yield from compare_sizes("import_items", catalogue.imports[1:])
    size = catalogue.size
    part = catalogue.manage(size // TAGS["some"], "export_items", "-", "--tag", "some")
    whole = catalogue.manage(size, "export_items", "-")
    yield from compare_sizes("export_items", [part, whole])


def compare_sizes(title: str, done: list[Command]) -> Iterator[Piece]:
    """Compare commands with more and more rows."""
    rates = [Row(f"{one.rows:,} rows", [one.rows / one.seconds]) for one in done]
    yield Table(title, "rows a second, its start included", rates)
    peaks = [Row(f"{one.rows:,} rows", [one.peak_mb]) for one in done]
    yield Table(title, "largest memory in MB", peaks)
    name = f"memory for {done[-1].rows:,} rows to that for {done[0].rows:,}"
    growth = [done[-1].peak_mb / done[0].peak_mb]
    yield Table(title, RATIO, [Row(name, growth, CONSTANT)])
