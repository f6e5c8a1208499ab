"""What `make run` takes: time until it answers, and memory of all its processes."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import Goal, Missing, Piece, Row, Table
from tests.load.request_template import RequestTemplate
from tests.running import ROOT, Site

TITLE = "Memory and start on the embedded default"
# For the pool and all caches to settle.
IDLE_S = 5
MB = 1e6


def measure(bench: Bench) -> Iterator[Piece]:
    folder = Path(tempfile.mkdtemp(dir=bench.testbed.folder))
    again = partial(start_s, folder / "data")
    again()  # makes the database and loads the sample
    seconds = in_turns(bench.scale.rounds, {"a second start": again})
    rows = [Row(name, found, Goal("≤", 1.1)) for name, found in seconds.items()]
    yield Table("make run", "s", rows)
    yield first_start(folder)
    yield memory(bench, folder / "memory")


def start_s(data_dir: Path, root: Path = ROOT) -> float:
    """Return the seconds from `make run` to the first answer."""
    site = Site(data_dir)
    data_dir.mkdir(exist_ok=True)
    command = ["make", "-s", "run", f"PORT={site.port}", f"DATA_DIR={data_dir}"]
    begin = time.perf_counter()
    with open(site.output_path, "ab") as output:
        site.run(command, cwd=root, stdout=output, stderr=output)
    took = time.perf_counter() - begin
    site.stop()
    return took


def first_start(folder: Path) -> Piece:
    """From a clone without anything, the packages from a registry included."""
    title, clone = "make run, first start from a clone", folder / "clone"
    try:
        clone_it = ["git", "clone", "--quiet", str(ROOT), str(clone)]
        subprocess.run(clone_it, check=True, capture_output=True)
        took = start_s(folder / "first", clone)
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        return Missing(title, str(error).splitlines()[-1])
    finally:
        shutil.rmtree(clone, ignore_errors=True)
    return Table(title, "s", [Row("until it answers", [took], Goal("≤", 10))])


def memory(bench: Bench, folder: Path) -> Piece:
    site = Site(folder, RATE_LIMITS="off")
    for name in ("WEB_PROCESSES", "COMPUTE_PROCESSES"):  # those of the machine
        del site.env[name]
    site.start(for_the_first_time=True)
    try:
        time.sleep(IDLE_S)
        idle = shared_out_mb(site)
        items, seconds = "/api/v1/items", 6 * bench.scale.turn_s
        ask = partial(RequestTemplate, site.port)
        for template in (
            ask(f"{items}/{{n}}", numbers=249),
            ask(f"{items}?search=nothing{{count}}"),
            ask("/items/"),
            ask(items),
            ask("/api/v1/collections/country/lookup?code=DE"),
        ):
            bench.generator.call("in_closed_loop", template, 16, seconds)
        loaded = shared_out_mb(site)
    finally:
        site.stop()
    rows = [
        Row("idle", [idle], Goal("≤", 200)),
        Row(f"after {5 * seconds:.0f} s of load", [loaded], Goal("≤", 300)),
    ]
    return Table("All processes of make run, PSS", "MB", rows)


def shared_out_mb(site: Site) -> float:
    """Return the memory of its processes, what they share divided among them."""
    total = 0
    for process in site.processes():
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / MB
