"""Operator overrides of circuit breakers, for all processes of this machine.

They are in a small file that every process reads when it changes: so they outlive the
processes, for an hour at most. With a file that is missing or damaged there are none.
"""

import fcntl
import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings

from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State

logger = logging.getLogger(__name__)

CHECK_PERIOD_S = 0.5
MAX_DURATION = timedelta(hours=1)


@dataclass(frozen=True)
class Override:
    state: State
    until: datetime
    by: str = ""


class BreakerOverrides:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = (0, 0, 0)
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
        """Return the overrides by the names of the breakers, without expired ones."""
        now = datetime.now(UTC)
        return {n: entry for n, entry in self._read().items() if entry.until > now}

    def _read(self) -> dict[str, Override]:
        try:
            entries = orjson.loads(self.path.read_bytes())
            written_at = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
            return {name: _parse(entry, written_at) for name, entry in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("Overrides of circuit breakers cannot be read: %s", error)
            return {}

    def set(self, name: str, override: Override | None) -> None:
        """Force the breaker `name` open or closed; None removes the override."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            overrides = self.current()
            overrides.pop(name, None)
            if override:
                overrides[name] = override
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
                # The size, too: what an editor has emptied and written at once may
                # have been read in between.
                version = status.st_mtime_ns, status.st_ino, status.st_size
            except OSError:
                version = 0, 0, 0
            if version != self._version:
                self._version, self._overrides = version, self._read()
            now = datetime.now(UTC)
            for breaker in breakers.all_breakers():
                override = self._overrides.get(breaker.name)
                state = override.state if override and override.until > now else None
                if breaker.forced is not state:
                    breaker.override(state)

    def _watch(self) -> None:
        while not self._stopping.wait(CHECK_PERIOD_S):
            self.apply()


def _parse(entry: Any, written_at: datetime) -> Override:
    state = State(entry["state"])
    if state is State.HALF_OPEN:
        raise ValueError(f"forced {state}")
    until = written_at + MAX_DURATION
    if stated := entry.get("until"):
        until = min(until, datetime.fromisoformat(stated))
    return Override(state, until, str(entry.get("by", "")))


def describe_all() -> list[str]:
    """Return a sentence on each override that holds now."""
    return [
        f"The circuit breaker for the {name} is forced {override.state}"
        f" until {override.until:%H:%M} UTC."
        for name, override in breaker_overrides.current().items()
    ]


breaker_overrides = BreakerOverrides(settings.DATA_DIR / "breakers.json")
