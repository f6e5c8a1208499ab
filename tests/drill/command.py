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
from tests.drill.plain.stack import Plain
from tests.drill.runs import Run, run
from tests.drill.stack import OFF, Ours, Stack
from tests.drill.staging import Staging

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
        help="the same once more without these mechanisms (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--plain", action="store_true",
        help="the same once more for a plain ModelViewSet under gunicorn",
    )  # fmt: skip
    parser.add_argument(
        "--url", help="load and checks alone, no faults, for the site at this address"
    )
    parser.add_argument("--token", default="", help="with --url: who writes there")
    parser.add_argument(
        "--seconds", type=float, default=LOAD_S, help="with --url: for how long"
    )
    parser.add_argument("--objectives", type=Path, default=FILE, help="what to keep")
    parser.add_argument(
        "--output", type=Path, default=settings.DATA_DIR / "drill",
        help="where the report is written",
    )  # fmt: skip


def drill(options: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Return whether every objective was kept. Raises ValueError for bad objectives."""
    # make passes SIGTERM on: end as for Ctrl-C, so that everything ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    objectives = Objectives(options["objectives"])
    faults = list(_faults(options))
    runs: list[Run] = []
    for stack in _stacks(options):
        seconds = QUICK_S if options["quick"] else None
        done = run(stack, faults, objectives, say, seconds)
        runs.append(done)
        say(report.summary(done))
        for lacking in done.lacking:
            say(f"  –  not there: {lacking}")
    page = report.write(options["output"], runs, objectives)
    kept = runs[0].is_kept
    say(
        f"{'Every objective is kept.' if kept else 'Objectives are missed.'} See {page}"
    )
    return kept


def _stacks(options: dict[str, Any]) -> Iterator[Stack]:
    if options["url"]:
        yield Staging(options["url"], options["token"])
        return
    yield Ours()
    for what in options["without"]:
        yield Ours(what)
    if options["plain"]:
        yield Plain()


def _faults(options: dict[str, Any]) -> Iterator[Fault]:
    if options["url"]:
        # Nothing is broken that is not ours.
        yield Fault("load", "Load alone", options["seconds"], lambda context: None)
    elif options["fault"]:
        yield from (fault for fault in FAULTS if fault.name in options["fault"])
    else:
        yield from (fault for fault in FAULTS if fault.is_quick or not options["quick"])
