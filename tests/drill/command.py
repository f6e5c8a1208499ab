"""Start a private site as in production, put load on it, inject one fault after
another, and check every response. Exits with 1 if an objective of
deploy/objectives.toml is missed.
"""

import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from django.conf import settings

from tests.drill import report
from tests.drill.faults import FAULTS, Fault
from tests.drill.machine_faults import MACHINE_FAULTS
from tests.drill.machines import Unavailable
from tests.drill.machines_stack import MachinesStack
from tests.drill.objectives import Objectives
from tests.drill.runner import run
from tests.drill.stack import OFF, Stack

QUICK_S = 2.5
# As other tools have it for what was skipped.
NOT_RUN = 77


def main() -> int:
    options = read_options()
    # make passes SIGTERM on: end as for Ctrl-C, so that everything ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return 0 if drill(options) else 1
    except Unavailable as error:
        print(f"Not run, as there can be no machines here: {error}", file=sys.stderr)
        return NOT_RUN
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def read_options() -> Namespace:
    names = [fault.name for fault in (*FAULTS, *MACHINE_FAULTS)]
    parser = ArgumentParser("python -m tests.drill", description=__doc__)
    add = parser.add_argument
    add(
        "--fault", action="append", choices=names, metavar="NAME", default=[],
        help=f"only this fault (may be repeated): {', '.join(names)}",
    )  # fmt: skip
    add("--quick", action="store_true", help="a few faults, in a minute")
    add(
        "--machines", action="store_true",
        help="each part on a machine of its own, in network namespaces",
    )  # fmt: skip
    add(
        "--without", action="append", choices=[*OFF], default=[],
        help="repeat without this mechanism (may be repeated)",
    )  # fmt: skip
    output = settings.DATA_DIR / "drill"
    add("--output", type=Path, default=output, help="where the report is written")
    return parser.parse_args()


def drill(options: Namespace) -> bool:
    """Return whether all objectives were met. Raises ValueError for bad objectives."""
    objectives = Objectives()
    faults, seconds = chosen_faults(options), QUICK_S if options.quick else None
    runs = []
    stacks = [Stack(without) for without in ("", *options.without)]
    for stack in [MachinesStack()] if options.machines else stacks:
        runs.append(run(stack, faults, objectives, seconds))
        print(report.summary(runs[-1]), flush=True)
    page = report.write(options.output, runs, objectives)
    is_kept = runs[0].is_kept
    result = "Every objective is kept." if is_kept else "Objectives are missed."
    print(f"{result} See {page}", flush=True)
    return is_kept


def chosen_faults(options: Namespace) -> list[Fault]:
    faults = MACHINE_FAULTS if options.machines else FAULTS
    if options.fault:
        return [fault for fault in faults if fault.name in options.fault]
    return [fault for fault in faults if fault.is_quick or not options.quick]
