"""A catalogue that grows, filled by imports, and a site that answers from it.

What is read comes from the database: nothing is kept in memory.
"""

import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.load.bench import places
from tests.load.bench.peers import OURS, Running
from tests.load.remote_process import RemoteProcess
from tests.load.rows import PLACED_COLUMNS, placed_rows
from tests.load.testbed import Testbed
from tests.running import ROOT


class Command(NamedTuple):
    """A command of `manage.py` that has run."""

    rows: int
    seconds: float
    peak_mb: float


class Catalogue:
    def __init__(self, testbed: Testbed, stack: ExitStack) -> None:
        self.testbed, self.size = testbed, 0
        self.imports: list[Command] = []
        peers = Running(testbed, stack)
        self.site = peers.start_site("--no-compute", READ_CACHE_BYTES="0")
        self.peer = peers[OURS]
        self.client = stack.enter_context(
            RemoteProcess("tests.load.catalogue_client", self.site.env)
        )
        self.client.call("make_collections")

    def grow(self, size: int) -> None:
        """Import so many more items that there are `size` of them."""
        if size <= self.size:
            return
        path = self.testbed.folder / "rows.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(PLACED_COLUMNS)
            csv.writer(file).writerows(placed_rows(self.size, size))
        done = self.manage(size - self.size, "import_items", str(path))
        self.imports.append(done)
        self.size = size
        self.client.call("vacuum")

    def manage(self, rows: int, *command: str) -> Command:
        """Run a command. Raises CalledProcessError if it fails."""
        peak_mb = Path(self.site.env["DATA_DIR"], "peak")
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "tests.load.peak_memory", peak_mb, *command],
            cwd=ROOT, env=self.site.env, check=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        return Command(rows, seconds, float(peak_mb.read_text()))

    @contextmanager
    def separate_cores(self) -> Iterator[None]:
        """Leave the load generator its core."""
        servers = [*self.testbed.processes(), *self.site.processes()]
        with places.separate_cores(servers):
            places.set_priority(servers, -10)
            yield
