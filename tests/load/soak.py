"""Soak test: the memory of the web process under all kinds of clients.

`python -m tests.load.soak [seconds]`, by default 300.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.load.clients import Clients
from tests.running import Site, admin_token

# After the warm-up each thread has run each code path.
WARM_UP_SHARE, WARM_UP_ANSWERS = 0.4, 2_000
# Small caches, so that they are full when the warm-up is over.
ENVIRONMENT = {
    "RATE_LIMITS": "off",
    "READ_CACHE_BYTES": "1000000",
    "CACHE_MEMORY_BYTES": "1000000",
    "WEB_MAX_REQUESTS": "0",
}


@dataclass
class SoakResult:
    answers: Counter[int]
    failures: list[str]
    longest_s: float
    sizes: list[int]  # in bytes, by the second, after the warm-up

    @property
    def growth(self) -> float:
        """Growth from the first to the last third, as a share."""
        third = max(1, len(self.sizes) // 3)
        before = statistics.median(self.sizes[:third])
        return statistics.median(self.sizes[-third:]) / before - 1


def soak(site: Site, seconds: float) -> SoakResult:
    """Measure the one web process of a site that was started with `ENVIRONMENT`."""
    token = admin_token()
    headers = {"Authorization": f"Token {token}"}
    body = {"task": "catalogue_report"}
    job = site.request("POST", "/api/v1/jobs/", body, headers).json()["id"]
    (worker,) = psutil.Process(site.process.pid).children()
    sizes = []
    with Clients(site, token) as clients:
        clients.run(clients.read_keep_alive)
        clients.run(clients.read_once)
        clients.run(clients.search, 2)
        clients.run(clients.write)
        clients.run(clients.send_invalid)
        clients.run(clients.drip, 4)
        clients.run(clients.vanish)
        clients.run(clients.watch(job), 3)
        clients.pause(seconds * WARM_UP_SHARE)
        while clients.answers.total() < WARM_UP_ANSWERS:
            clients.pause(0.1)
        end = time.monotonic() + seconds * (1 - WARM_UP_SHARE)
        while time.monotonic() < end:
            sizes.append(worker.memory_info().rss)
            clients.pause(min(1, seconds / 30))
    assert worker.is_running()
    return SoakResult(clients.answers, clients.failures, clients.longest_s, sizes)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory(prefix="rs-soak-") as folder:
        site = Site(Path(folder), **ENVIRONMENT).start_web()
        try:
            found = soak(site, seconds)
        finally:
            site.stop()
    print("answers:", dict(found.answers), "longest:", f"{found.longest_s:.2f} s")
    print("failures:", len(found.failures), found.failures[:3])
    step = max(1, len(found.sizes) // 20)
    print("MiB:", [size // 2**20 for size in found.sizes[::step]])
    print(f"growth after the warm-up: {found.growth:.1%}")


if __name__ == "__main__":
    main()
