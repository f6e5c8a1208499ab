"""Adaptive concurrency limit: how many requests run in Django at a time.

More requests at a time than the machine can serve make all of them slow, and none of
them sooner done; threads that compete for the interpreter also hold up the event loop.
The limit falls while requests take more than twice as long as alone, and rises while
they do not: the gradient of Netflix's concurrency-limits ("Performance Under Load",
2018), with the baseline probed again now and then, as in Envoy's adaptive concurrency
filter. Classes have baselines of their own. Not handled: a class whose requests differ
widely in cost; the median of a window is what counts.
"""

import random
import time
from collections.abc import Callable
from statistics import median

from resilient_site.edge.request import Priority

LIMIT_MIN = 2.0
# Threads take turns in one interpreter: a single one would leave it idle while that
# waits for the database.
TOLERANCE = 2.0
WINDOW = 20
WINDOW_S = 0.1
PROBE_EVERY_S = 30.0
# The first requests of a process are slow: what they took is soon probed again.
FIRST_PROBE_S = 2.0
PROBE_SAMPLES = 10
# One slow request must not hold up the others for longer.
PROBE_MAX_S = 0.25
SMOOTHING = 0.1


class ConcurrencyLimit:
    def __init__(self, largest: int, clock: Callable[[], float] = time.monotonic):
        self.largest = max(float(largest), LIMIT_MIN)
        self.value = self.largest
        self._clock = clock
        self._baselines: dict[Priority, float] = {}
        self._ratios: list[float] = []
        self._window_began = clock()
        self._was_reached = False
        self._probe_at = clock() + FIRST_PROBE_S
        self._samples_to_probe = 0
        self._probing_until = 0.0

    @property
    def is_probing_baseline(self) -> bool:
        return self._samples_to_probe > 0 and self._clock() < self._probing_until

    @property
    def current(self) -> int:
        return 1 if self.is_probing_baseline else int(self.value)

    def record(self, priority: Priority, seconds: float, running: int) -> None:
        """Take the duration of a request, and how many ran when it started."""
        if running <= 1:
            self._record_baseline(priority, seconds)
        self._was_reached |= running >= self.current
        self._ratios.append(seconds / max(self._baselines.get(priority, seconds), 1e-6))
        now = self._clock()
        if len(self._ratios) < WINDOW or now - self._window_began < WINDOW_S:
            return
        if not self.is_probing_baseline:
            self._adjust(median(self._ratios))
        self._ratios.clear()
        self._window_began, self._was_reached = now, False
        if now >= self._probe_at:
            self._samples_to_probe = PROBE_SAMPLES
            self._probing_until = now + PROBE_MAX_S
            # At random, so that processes do not probe together.
            self._probe_at = now + PROBE_EVERY_S * random.uniform(0.8, 1.2)  # noqa: S311

    def _record_baseline(self, priority: Priority, seconds: float) -> None:
        known = self._baselines.get(priority, seconds)
        # One slow request says little, and a fast one that it can be done.
        weight = SMOOTHING if seconds > known else 3 * SMOOTHING
        self._baselines[priority] = known + weight * (min(seconds, 4 * known) - known)
        self._samples_to_probe = max(self._samples_to_probe - 1, 0)

    def _adjust(self, ratio: float) -> None:
        if ratio > TOLERANCE:
            self.value = max(self.value * max(TOLERANCE / ratio, 0.7), LIMIT_MIN)
        elif self._was_reached:
            self.value = min(self.value + 0.5, self.largest)
