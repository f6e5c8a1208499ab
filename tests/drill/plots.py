"""Requests over time as SVG, readable without colour."""

from tests.drill.history import Outcome
from tests.drill.runner import Run
from tests.drill.windows import BIN_S

BAR, HEIGHT = 4, 120  # pixels
# Layers from below, from dark to light.
SHOWN = {
    "answered": (Outcome.OK,),
    "stale": (Outcome.STALE,),
    "rejected": (Outcome.REJECTED, Outcome.UNREAD),
    "failed": (Outcome.FAILED, Outcome.WRONG),
}


def over_time(run: Run, kind: str) -> dict[str, object]:
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
