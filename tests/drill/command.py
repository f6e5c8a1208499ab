"""Options and run of the chaos drill."""

import argparse
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

from tests.drill import report
from tests.drill.faults import FAULTS, Fault
from tests.drill.objectives import FILE, Objectives
from tests.drill.plain.stack import PlainStack
from tests.drill.remote_stack import RemoteStack
from tests.drill.runner import Run, run
from tests.drill.stack import OFF, ProductionStack, Stack

QUICK_S = 2.5
LOAD_S = 30.0
NAMES = [fault.name for fault in FAULTS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fault", action="append", choices=NAMES, metavar="NAME", default=[],
        help=f"only this fault (may be repeated): {', '.join(NAMES)}",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="a few faults, in a minute"
    )
    parser.add_argument(
        "--without", action="append", choices=[*OFF], default=[],
        help="repeat without this mechanism (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--plain", action="store_true",
        help="repeat for a plain ModelViewSet under gunicorn",
    )  # fmt: skip
    parser.add_argument(
        "--url", help="only load and checks, without faults, for the site at this URL"
    )
    parser.add_argument(
        "--token", default="", help="with --url: API token of the writers"
    )
    parser.add_argument(
        "--seconds", type=float, default=LOAD_S, help="with --url: for how long"
    )
    parser.add_argument(
        "--objectives", type=Path, default=FILE, help="file of objectives"
    )
    parser.add_argument(
        "--output", type=Path, default=settings.DATA_DIR / "drill",
        help="where the report is written",
    )  # fmt: skip


def drill(options: dict[str, Any], print_line: Callable[[str], None]) -> bool:
    """Return whether all objectives were met. Raises ValueError for bad objectives."""
    # make passes SIGTERM on: end as for Ctrl-C, so that everything ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    objectives = Objectives(options["objectives"])
    faults = list(_faults(options))
    runs: list[Run] = []
    for stack in _stacks(options):
        seconds = QUICK_S if options["quick"] else None
        done = run(stack, faults, objectives, print_line, seconds)
        runs.append(done)
        print_line(report.summary(done))
        for missing in done.missing:
            print_line(f"  –  not available: {missing}")
    page = report.write(options["output"], runs, objectives)
    kept = runs[0].is_kept
    print_line(
        f"{'Every objective is kept.' if kept else 'Objectives are missed.'} See {page}"
    )
    return kept


def _stacks(options: dict[str, Any]) -> Iterator[Stack]:
    if options["url"]:
        yield RemoteStack(options["url"], options["token"])
        return
    yield ProductionStack()
    for what in options["without"]:
        yield ProductionStack(what)
    if options["plain"]:
        yield PlainStack()


def _faults(options: dict[str, Any]) -> Iterator[Fault]:
    if options["url"]:
        # No faults in a site elsewhere.
        yield Fault("load", "Load alone", options["seconds"], lambda context: None)
    elif options["fault"]:
        yield from (fault for fault in FAULTS if fault.name in options["fault"])
    else:
        yield from (fault for fault in FAULTS if fault.is_quick or not options["quick"])
