"""Where the memory of this process was taken: asked for by administrators, for a while.

`tracemalloc` makes all slower and takes memory itself, so it ends by itself.
"""

import time
import tracemalloc
from typing import Any

MOST_S = 600
MOST_BYTES = 64 * 1024 * 1024

_began = 0.0


def start() -> None:
    global _began
    _began = time.monotonic()
    tracemalloc.start()


def stop() -> None:
    tracemalloc.stop()


def check() -> None:
    """Stop when it has gone on for too long or taken too much."""
    if tracemalloc.is_tracing() and (
        time.monotonic() - _began > MOST_S
        or tracemalloc.get_tracemalloc_memory() > MOST_BYTES
    ):
        stop()


def report(lines: int) -> dict[str, Any]:
    """Return the lines that took most of what is held and was taken since the start."""
    check()
    if not tracemalloc.is_tracing():
        return {"is_tracing": False, "top": []}
    held, peak = tracemalloc.get_traced_memory()
    statistics = tracemalloc.take_snapshot().statistics("lineno")[:lines]
    return {
        "is_tracing": True,
        "traced_s": round(time.monotonic() - _began, 1),
        "traced_bytes": held,
        "traced_peak_bytes": peak,
        "tracing_bytes": tracemalloc.get_tracemalloc_memory(),
        "top": [
            {"line": str(found.traceback), "bytes": found.size, "blocks": found.count}
            for found in statistics
        ],
    }
