"""Breakers that an operator holds open or closed, on all processes of this machine.

They are in a small file, which every process looks at: so a hold also outlives them.
A file that is missing or cannot be read holds nothing.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings

from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker, State

logger = logging.getLogger(__name__)

LOOK_S = 0.5


@dataclass(frozen=True)
class Hold:
    state: State
    by: str = ""
    since: datetime | None = None


class Holds:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._held: dict[str, Hold] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look at the file now, and from now on."""
        self._stopping.clear()
        self.apply()
        self._thread = threading.Thread(target=self._watch, name="holds", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join()

    def current(self) -> dict[str, Hold]:
        """Return what is held, by the names of the breakers."""
        try:
            told = orjson.loads(self.path.read_bytes())
            return {str(name): _hold(entry) for name, entry in told.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("The held breakers cannot be read, so none is: %s", error)
            return {}

    def set(self, name: str, state: State | None, by: str) -> None:
        """Hold the breaker `name`, or let it go if `state` is None."""
        if state is State.HALF_OPEN:
            raise ValueError("A breaker is held open or closed.")
        with self._changing() as held:
            held.pop(name, None)
            if state:
                held[name] = Hold(state, by, datetime.now(UTC))
        self.apply()

    def apply(self) -> None:
        """Hold and let go in this process what the file says."""
        with self._lock:
            seen = self._stamp()
            if seen != self._seen:
                self._seen, self._held = seen, self.current()
            for breaker in breakers.all_breakers():
                hold = self._held.get(breaker.name)
                wanted = hold.state if hold else _unless_held(breaker)
                if breaker.snapshot().held is not wanted:
                    breaker.hold(wanted)

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self.apply()

    def _stamp(self) -> tuple[int, int]:
        try:
            about = self.path.stat()
        except OSError:
            return 0, 0
        return about.st_mtime_ns, about.st_ino

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Hold]]:
        """Let one change at a time be made, of all processes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = self.current()
            yield held
            _write_whole(self.path, orjson.dumps(held, option=orjson.OPT_INDENT_2))


def _hold(entry: Any) -> Hold:
    state = State(entry["state"])
    if state is State.HALF_OPEN:
        raise ValueError(f"held {state}")
    since = entry.get("since")
    by = str(entry.get("by", ""))
    return Hold(state, by, datetime.fromisoformat(since) if since else None)


def _unless_held(breaker: Breaker) -> State | None:
    off = breaker is breakers.cache and not settings.CACHE_BREAKER
    return State.CLOSED if off else None


def _write_whole(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    draft.replace(path)


holds = Holds(settings.DATA_DIR / "breakers.json")
