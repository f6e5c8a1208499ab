"""A catalogue that grows, filled by imports, and a site that answers from it.

What is read comes from the database: nothing is kept in memory.
"""

import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from tests.load.bench import places
from tests.load.bench.peer import OURS
from tests.load.bench.peers import Running
from tests.load.helper import Helper
from tests.load.rows import COLUMNS, rows
from tests.load.stand import Stand
from tests.running import ROOT

CHUNK = 5_000
MEMORY_UNIT = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in MB


class Ran(NamedTuple):
    """A command of `manage.py`: how many rows, how long, and its largest memory."""

    rows: int
    seconds: float
    peak_mb: float


class Catalogue:
    def __init__(self, stand: Stand, stack: ExitStack) -> None:
        self.stand, self.size = stand, 0
        self.imports: list[Ran] = []
        peers = Running(stand, stack)
        self.site = peers.start_site("--no-compute", READ_CACHE_BYTES="0")
        self.peer = peers[OURS]
        self.client = stack.enter_context(
            Helper("tests.load.catalogue_client", self.site.env)
        )

    def grow(self, size: int) -> None:
        """Import so many more items that there are `size` of them."""
        if size <= self.size:
            return
        command = self._start("import_items", "-", stdin=subprocess.PIPE)
        begin = time.perf_counter()
        assert command.stdin
        with command.stdin as file:
            file.write(as_csv([COLUMNS]))
            for start in range(self.size, size, CHUNK):
                file.write(as_csv(rows(start, min(start + CHUNK, size))))
        self.imports.append(ended(command, size - self.size, begin))
        self.size = size
        self.client.call("vacuum")

    def export(self, format: str, rows: int, *options: str) -> Ran:
        begin = time.perf_counter()
        command = self._start("export_items", "-", "--format", format, *options)
        return ended(command, rows, begin)

    def _start(self, *args: str, **options: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "manage.py", *args],
            cwd=ROOT, env=self.site.env, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, **options,
        )  # fmt: skip

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the load generator its core."""
        servers = [*self.stand.processes(), *self.site.processes()]
        with places.apart(servers):
            places.rank(servers, -10)
            yield


def as_csv(lines) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def ended(command: "subprocess.Popen[bytes]", rows: int, begin: float) -> Ran:
    """Wait for its end. Raises RuntimeError if it fails."""
    _, status, usage = os.wait4(command.pid, 0)
    if status:
        raise RuntimeError(f"{command.args}: {status}")
    seconds = time.perf_counter() - begin
    return Ran(rows, seconds, usage.ru_maxrss / MEMORY_UNIT)
