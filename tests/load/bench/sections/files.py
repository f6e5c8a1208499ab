"""The catalogue in and out as a file: how fast, and in how much memory."""

from collections.abc import Callable, Iterator
from functools import partial

from tests.load.bench.catalogue import Catalogue, Ran
from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import RATIO, Goal, Piece, Row, Table, ratios
from tests.load.remote_process import RemoteProcess
from tests.load.rows import TAGS

TITLE = "Import and export"
COPY, IMPORT = "a bare COPY into the table of items", "an import, change log included"
# What is the same but for what the allocator happens to do.
CONSTANT = Goal("≤", 1.1)


def measure(bench: Bench) -> Iterator[Piece]:
    number = bench.scale.imported
    with RemoteProcess(
        "tests.load.catalogue_client", bench.testbed.on_postgres()
    ) as client:
        turns: dict[str, Callable[[], float]] = {
            COPY: partial(client.call, "copied_per_second", number),
            IMPORT: partial(client.call, "imported_per_second", number),
        }
        rates = in_turns(bench.scale.few_rounds, turns)
    title = f"{number:,} rows into an empty catalogue"
    rows = [Row(name, rates[name]) for name in turns]
    yield Table(title, "rows a second", rows, is_drawn=True)
    ratio = Row("import to COPY", ratios(rates[IMPORT], rates[COPY]), Goal("≥", 0.3))
    yield Table(title, RATIO, [ratio])
    for size in bench.scale.sizes:
        bench.catalogue.grow(size)
    yield from compare_sizes("import_items", bench.catalogue.imports[1:])
    yield from compare_sizes("export_items", exports(bench.catalogue))


def exports(catalogue: Catalogue) -> list[Ran]:
    """Export a part, and all."""
    part = catalogue.export(catalogue.size // TAGS["some"], "--tag", "some")
    return [part, catalogue.export(catalogue.size)]


def compare_sizes(title: str, ran: list[Ran]) -> Iterator[Piece]:
    """Compare commands with more and more rows."""
    rates = [Row(f"{one.rows:,} rows", [one.rows / one.seconds]) for one in ran]
    yield Table(title, "rows a second, its start included", rates)
    peaks = [Row(f"{one.rows:,} rows", [one.peak_mb]) for one in ran]
    yield Table(title, "largest memory in MB", peaks)
    name = f"memory for {ran[-1].rows:,} rows to that for {ran[0].rows:,}"
    growth = [ran[-1].peak_mb / ran[0].peak_mb]
    yield Table(title, RATIO, [Row(name, growth, CONSTANT)])
