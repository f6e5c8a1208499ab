"""Operator overrides of circuit breakers, for all processes of this machine.

They are in a small file that every process reads when it changes: so they outlive the
processes. With a file that is missing or damaged there are no overrides.
"""

import fcntl
import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings

from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State

logger = logging.getLogger(__name__)

CHECK_PERIOD_S = 0.5


@dataclass(frozen=True)
class Override:
    state: State
    by: str = ""
    since: datetime | None = None


class BreakerOverrides:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = (0, 0)
        self._overrides: dict[str, Override] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Apply the file now and whenever it changes."""
        self._stopping.clear()
        self.apply()
        self._thread = threading.Thread(
            target=self._watch, name="breaker-overrides", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join()

    def current(self) -> dict[str, Override]:
        """Return the overrides by the names of the breakers."""
        try:
            entries = orjson.loads(self.path.read_bytes())
            return {name: _parse(entry) for name, entry in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("Overrides of circuit breakers cannot be read: %s", error)
            return {}

    def set(self, name: str, state: State | None, by: str) -> None:
        """Force the breaker `name` open or closed; None removes the override."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            overrides = self.current()
            overrides.pop(name, None)
            if state:
                overrides[name] = Override(state, by, datetime.now(UTC))
            draft = self.path.with_suffix(".draft")
            draft.touch(0o600)
            draft.write_bytes(orjson.dumps(overrides, option=orjson.OPT_INDENT_2))
            draft.replace(self.path)
        self.apply()

    def apply(self) -> None:
        """Override the breakers of this process as the file says."""
        with self._lock:
            try:
                status = self.path.stat()
                version = status.st_mtime_ns, status.st_ino
            except OSError:
                version = 0, 0
            if version != self._version:
                self._version, self._overrides = version, self.current()
            for breaker in breakers.all_breakers():
                override = self._overrides.get(breaker.name)
                state = override.state if override else None
                if breaker.forced is not state:
                    breaker.override(state)

    def _watch(self) -> None:
        while not self._stopping.wait(CHECK_PERIOD_S):
            self.apply()


def _parse(entry: Any) -> Override:
    state = State(entry["state"])
    if state is State.HALF_OPEN:
        raise ValueError(f"forced {state}")
    since = entry.get("since")
    by = str(entry.get("by", ""))
    return Override(state, by, datetime.fromisoformat(since) if since else None)


breaker_overrides = BreakerOverrides(settings.DATA_DIR / "breakers.json")
