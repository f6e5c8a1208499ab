"""Report of a drill: a self-contained page, and the same as JSON."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from django.template import Context, Engine
from django.utils.safestring import mark_safe

from tests.drill.objectives import Objectives
from tests.drill.plots import over_time
from tests.drill.runner import Result, Run
from tests.load.bench.machine import in_a_line

# Slower jobs are mentioned in the report.
SLOW_JOB_S = 2.0
TEMPLATE = Path(__file__).parent / "report.html"
# Labels of measured figures.
MEASURED = {
    "capacity": "{:.0f} requests a second can be answered",
    "goodput": "{:.0%} of that is answered within a second each during the overload",
    "answered": "{:.0f} of them were answered",
    "fetched": "{:.0f} request(s) reached Django",
}


def write(folder: Path, runs: list[Run], objectives: Objectives) -> Path:
    """Write both files below `folder`; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": in_a_line(),
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
    names = [result.name for result in runs[0].results]
    rows = [
        {
            "number": number,
            "title": runs[0].results[number - 1].title,
            "name": name,
            "results": [
                {"run": run.name, "result": result, "notes": _notes(result)}
                for run in runs
                for result in run.results
                if result.name == name
            ],
        }
        for number, name in enumerate(names, start=1)
    ]
    plots = [mark_safe(over_time(run)) for run in runs]  # noqa: S308 - drawn here
    template = Engine().from_string(TEMPLATE.read_text())
    context = about | {
        "runs": list(zip(runs, plots, strict=True)),
        "first": runs[0],
        "rows": rows,
        "ends": _ends(runs),
        "are_several": len(runs) > 1,
    }
    return template.render(Context(context))


def _ends(runs: list[Run]) -> dict[str, Any]:
    """Return the table of the final check."""
    checked = list(runs[0].found.checked)
    return {
        "checked": checked,
        "found": list(runs[0].found.labels()),
        "rows": [
            {
                "name": run.name,
                "checked": [run.found.checked.get(what, "–") for what in checked],
                "found": list(run.found.counts().values()),
            }
            for run in runs
        ],
    }


def _notes(result: Result) -> list[str]:
    notes = [MEASURED[name].format(value) for name, value in result.measured.items()]
    slowest_s = max(window.slowest_job_s for window in result.windows())
    if slowest_s > SLOW_JOB_S:
        notes.append(f"the slowest job took {slowest_s:.0f} s")
    return notes


def summary(run: Run) -> str:
    """Format the final check for the terminal."""
    found, checked = run.found.labels(), run.found.checked
    compared = ", ".join(f"{number:,} {what}" for what, number in checked.items())
    counts = ", ".join(f"{number} {what}" for what, number in found.items())
    lines = [f"  compared: {compared}", f"  found: {counts}"]
    lines += [f"  ✗  {miss}" for miss in run.end.misses]
    lines += [f"     {one}" for one in run.found.all()[:10]]
    return "\n".join(lines)
