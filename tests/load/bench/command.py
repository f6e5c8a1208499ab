"""Measure this site beside its peers, on this machine.

Starts all that it needs, on loopback, and leaves nothing behind. Writes report.md. Ends
with 1 if a section failed, which the report names.
"""

import argparse
import os
import signal
import time
import traceback
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from tests.load.bench import machine, picture, places, report
from tests.load.bench.measuring import QUICK, Bench, Scale, print_progress
from tests.load.bench.results import Missing, Report, Section
from tests.load.bench.sections import SECTIONS
from tests.load.remote_process import RemoteProcess
from tests.load.testbed import Testbed


def main() -> int:
    options = _options()
    for signum in (signal.SIGINT, signal.SIGTERM):  # make passes the second one on
        signal.signal(signum, _stop)
    scale = QUICK if options.quick else Scale()
    if options.rounds:
        scale = replace(scale, rounds=options.rounds)
    if options.size:
        scale = replace(scale, sizes=tuple(options.size))
    results = Report(machine.describe())
    begin = time.monotonic()
    try:
        is_complete = run(results, scale, options.only or SECTIONS)
    except KeyboardInterrupt:
        print_progress("stopped")
        return 130
    seconds = time.monotonic() - begin
    results.machine["load average at the end"] = machine.load_average()
    results.machine["duration"] = f"{seconds:.0f} s" + " (--quick)" * options.quick
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "report.md"
    file.write_text(report.as_markdown(results))
    (options.output / "report.svg").write_text(picture.draw(results))
    print(report.goals_table(results))
    print_progress(f"See {file}")
    return 0 if is_complete else 1


def run(results: Report, scale: Scale, names: Collection[str]) -> bool:
    """Fill the results; return whether all sections were completed."""
    is_complete = True
    with (
        Testbed() as testbed,
        RemoteProcess("tests.load.load_generator", os.environ) as generator,
        ExitStack() as stack,
    ):
        generator.call("pin", places.GENERATOR)
        bench = Bench(testbed, generator, scale, stack)
        for name, module in SECTIONS.items():
            if name in names:
                print_progress(f"{name}: {module.TITLE}")
                section = results.sections[name] = Section(module.TITLE)
                is_complete &= measure(bench, section, module)
    return is_complete


def measure(bench: Bench, section: Section, module: ModuleType) -> bool:
    """Return whether it was completed; what it found before an error is kept."""
    section.load_average = machine.load_average()
    begin = time.monotonic()
    try:
        section.pieces.extend(module.measure(bench))
    except Exception as error:  # noqa: BLE001 - the other sections are measured
        traceback.print_exc()
        why = str(error).strip() or repr(error)
        section.pieces.append(Missing(section.title, why.splitlines()[-1]))
        return False
    finally:
        section.seconds = round(time.monotonic() - begin)
    return True


def _stop(signum: int, frame: object) -> None:
    """End everything, and ignore signals meanwhile."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="may be repeated"
    )
    parser.add_argument("--rounds", type=int, help="5, with --quick 2")
    parser.add_argument(
        "--size", action="append", type=int, metavar="ITEMS",
        help="of the growing catalogue, may be repeated; smallest first",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("var/bench"))
    return parser.parse_args()
