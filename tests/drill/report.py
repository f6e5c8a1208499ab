"""Report of a drill: a self-contained page, and the same as JSON."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from django.template import Context, Engine

from tests.drill.history import Outcome
from tests.drill.objectives import Objectives
from tests.drill.runner import Result, Run
from tests.drill.windows import BIN_S
from tests.load.bench import machine

TEMPLATE = Path(__file__).parent / "report.html"
# Labels of measured figures.
MEASURED = {
    "delivered": "{:.0f} changes were delivered meanwhile",
    "capacity": "{:.0f} requests a second can be answered",
    "goodput": "{:.0%} of that is answered within a second each during the overload",
    "answered": "{:.0f} of them were answered",
    "fetched": "{:.0f} request(s) reached Django",
    "seen_s": "the other machine shows a change after {:.2f} s at most",
    "carried_over": "{:.0%} of what was begun on one machine goes on on the other",
    "promoted_s": "the standby is promoted after {:.1f} s",
    "writers_back_s": "the first write is confirmed {:.1f} s after that",
    "taken_over_s": "the other worker has the job after {:.1f} s",
}

BAR, HEIGHT = 4, 120  # pixels
# Layers from below, from dark to light.
SHOWN = {
    "answered": (Outcome.OK,),
    "stale": (Outcome.STALE,),
    "rejected": (Outcome.REJECTED, Outcome.UNREAD),
    "failed": (Outcome.FAILED, Outcome.WRONG),
}


def write(folder: Path, runs: list[Run], objectives: Objectives) -> Path:
    """Write both files below `folder`; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    found = machine.describe()
    names = "processor", "memory", "system", "Python", "load average at the start"
    about = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": "; ".join(f"{name}: {found[name]}" for name in names),
        "objectives": {
            "every": objectives.every,
            "fault": objectives.faults,
            "end": objectives.end,
        },
        "passed": runs[0].is_kept,
    }
    plain = about | {"runs": [dataclasses.asdict(run) for run in runs]}
    (folder / "report.json").write_bytes(
        orjson.dumps(plain, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    )
    page = folder / "report.html"
    page.write_text(_page(runs, about))
    return page


def _page(runs: list[Run], about: dict[str, Any]) -> str:
    rows = [
        [(run.name, run.results[place], _notes(run.results[place])) for run in runs]
        for place in range(len(runs[0].results))
    ]
    first = runs[0]
    checked = {
        run.name: [run.found.checked.get(what, "–") for what in first.found.checked]
        for run in runs
    }
    plots = [[_over_time(run, kind) for kind in run.rates] for run in runs]
    template = Engine().from_string(TEMPLATE.read_text())
    context = about | {
        "runs": list(zip(runs, checked.values(), plots, strict=True)),
        "first": first,
        "rows": rows,
        "are_several": len(runs) > 1,
    }
    return template.render(Context(context, use_l10n=False))  # in coordinates, too


def _over_time(run: Run, kind: str) -> dict[str, object]:
    """Return the coordinates of a picture: its layers of bars, and the faults."""
    rates = run.rates[kind]
    number = len(rates[Outcome.OK])
    bottoms, paths = [0.0] * number, {}
    scale = HEIGHT / (max(map(sum, zip(*rates.values(), strict=True))) or 1)
    for name, outcomes in SHOWN.items():
        bars = []
        for n in range(number):
            height = sum(rates[one][n] for one in outcomes) * scale
            bars.append(f"M{(n + 0.5) * BAR} {HEIGHT - bottoms[n]:.1f}v{-height:.1f}")
            bottoms[n] += height
        paths[name] = "".join(bars)
    per_s = BAR / BIN_S
    faults = [
        (place, one.started * per_s, max(one.ended - one.started, BIN_S) * per_s)
        for place, one in enumerate(run.results, start=1)
        if not one.not_run
    ]
    return {"kind": kind, "width": number * BAR, "paths": paths, "faults": faults}


def _notes(result: Result) -> list[str]:
    return [MEASURED[name].format(value) for name, value in result.measured.items()]


def summary(run: Run) -> str:
    """Format the final check for the terminal."""
    found = run.found
    compared = ", ".join(f"{number:,} {what}" for what, number in found.checked.items())
    counts = ", ".join(f"{number} {what}" for what, number in found.counts().items())
    lines = [f"  compared: {compared}", f"  found: {counts}"]
    lines += [f"  ✗  {miss}" for miss in run.misses]
    lines += [f"     {one}" for one in found.all()[:10]]
    lines += [f"  –  not available: {missing}" for missing in run.missing]
    return "\n".join(lines)
