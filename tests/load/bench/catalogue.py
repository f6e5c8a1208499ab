"""A catalogue that grows, filled by imports, and a site that answers from it.

What is read comes from the database: nothing is kept in memory.
"""

import csv
import io
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.load.bench import places
from tests.load.bench.peer import OURS
from tests.load.bench.peers import Running
from tests.load.remote_process import RemoteProcess
from tests.load.rows import COLUMNS, rows
from tests.load.testbed import Testbed
from tests.running import ROOT

CHUNK = 5_000


class Ran(NamedTuple):
    """A command of `manage.py`: how many rows, how long, and its largest memory."""

    rows: int
    seconds: float
    peak_mb: float


class Catalogue:
    def __init__(self, testbed: Testbed, stack: ExitStack) -> None:
        self.testbed, self.size = testbed, 0
        self.imports: list[Ran] = []
        peers = Running(testbed, stack)
        self.site = peers.start_site("--no-compute", READ_CACHE_BYTES="0")
        self.peer = peers[OURS]
        self.client = stack.enter_context(
            RemoteProcess("tests.load.catalogue_client", self.site.env)
        )

    def grow(self, size: int) -> None:
        """Import so many more items that there are `size` of them."""
        if size <= self.size:
            return
        ran = self._run(size - self.size, "import_items", "-", stdin=self._new(size))
        self.imports.append(ran)
        self.size = size
        self.client.call("vacuum")

    def _new(self, size: int) -> Iterator[bytes]:
        yield as_csv([COLUMNS])
        for start in range(self.size, size, CHUNK):
            yield as_csv(rows(start, min(start + CHUNK, size)))

    def export(self, rows: int, *options: str) -> Ran:
        return self._run(rows, "export_items", "-", *options)

    def _run(self, rows: int, *command: str, stdin: Iterable[bytes] = ()) -> Ran:
        """Raise RuntimeError if it fails."""
        peak_mb = Path(self.site.env["DATA_DIR"], "peak")
        begin = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "tests.load.peak_memory", peak_mb, *command],
            cwd=ROOT, env=self.site.env, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                assert process.stdin
                for piece in stdin:
                    process.stdin.write(piece)
                process.stdin.close()
                status = process.wait()
            except BaseException:
                process.kill()
                raise
        if status:
            raise RuntimeError(f"{command}: {status}")
        seconds = time.perf_counter() - begin
        return Ran(rows, seconds, float(peak_mb.read_text()))

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the load generator its core."""
        servers = [*self.testbed.processes(), *self.site.processes()]
        with places.apart(servers):
            places.rank(servers, -10)
            yield


def as_csv(lines: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()
