"""Measure this site beside its peers, on this machine.

Starts all that it needs, on loopback, and leaves nothing behind. Writes report.md,
report.json and report.html. Ends with 1 if a section failed, which the report names.
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

from tests.load.bench import data, machine, markdown, places
from tests.load.bench.measuring import QUICK, Bench, Scale, say
from tests.load.bench.methods import METHODS
from tests.load.bench.results import Missing, Report, Section
from tests.load.bench.sections import SECTIONS
from tests.load.remote_process import RemoteProcess
from tests.load.testbed import Testbed


def main() -> int:
    options = _options()
    for signum in (signal.SIGINT, signal.SIGTERM):  # make passes the second one on
        signal.signal(signum, _stop)
    report = Report(machine.described(), METHODS)
    begin = time.monotonic()
    try:
        failed = run(report, _scale(options), options.only or SECTIONS)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    seconds = time.monotonic() - begin
    report.machine["load average at the end"] = machine.load_average()
    report.machine["duration"] = f"{seconds:.0f} s" + " (--quick)" * options.quick
    write(report, options.output)
    print(markdown.goals(report), end="")
    return 1 if failed else 0


def run(report: Report, scale: Scale, names: Collection[str]) -> bool:
    """Fill the report; return whether a section failed."""
    failed = False
    with (
        Testbed() as testbed,
        RemoteProcess("tests.load.generator", os.environ) as generator,
        ExitStack() as stack,
    ):
        generator.call("begin", places.GENERATOR)
        bench = Bench(testbed, generator, scale, stack)
        for name, module in SECTIONS.items():
            if name in names:
                say(f"{name}: {module.TITLE}")
                section = report.sections[name] = Section(module.TITLE)
                failed |= not measure(bench, section, module)
    return failed


def measure(bench: Bench, section: Section, module: ModuleType) -> bool:
    """Return whether it came to its end; what it found before that is kept."""
    section.load = machine.load_average()
    begin = time.monotonic()
    try:
        section.pieces.extend(module.measure(bench))
    except Exception as error:  # noqa: BLE001 - the others are to be measured
        traceback.print_exc()
        why = str(error).strip() or repr(error)
        section.pieces.append(Missing(section.title, why.splitlines()[-1]))
        return False
    finally:
        section.seconds = time.monotonic() - begin
    return True


def write(report: Report, folder: Path) -> None:
    from tests.load.bench import page  # large, and not needed before

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("report.md", markdown.as_markdown(report)),
        ("report.json", data.as_json(report)),
        ("report.html", page.as_html(report)),
    ):
        (folder / name).write_text(text)
        say(f"{folder / name}")


def _stop(signum: int, frame: object) -> None:
    """End everything, and ignore signals meanwhile."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    raise KeyboardInterrupt


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else Scale()
    return replace(scale, rounds=options.rounds) if options.rounds else scale


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="may be repeated"
    )
    parser.add_argument("--rounds", type=_positive, help="5, with --quick 2")
    parser.add_argument("--output", type=Path, default=Path("var/bench"))
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
