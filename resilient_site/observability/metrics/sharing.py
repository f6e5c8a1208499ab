"""The figures of all processes: each writes its own down, whoever is asked adds up.

A process that has ended leaves its counts behind, so that no counter falls: neither by
a release nor where several gunicorns share the folder. It has ended when nobody holds a
lock on what it told; its number would say nothing from one container to another.
Nothing here raises: on a full disk the process that is asked tells its own figures.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from django.conf import settings

from resilient_site.observability.metrics.counts import BOUNDS
from resilient_site.observability.metrics.families import FAMILIES, Kind
from resilient_site.observability.metrics.process import Sample, all_samples, begin

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
ENDED = "ended"

type Totals = dict[tuple[str, tuple[str, ...]], Any]


def folder() -> Path:
    return Path(settings.DATA_DIR) / "metrics"


def clean(role: str) -> None:
    """Forget what earlier processes of this role have told."""
    with suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        for file in folder().glob(f"{role}-*"):
            file.unlink(missing_ok=True)


class Teller:
    """Writes the figures of this process down, again and again, in a thread."""

    def __init__(self) -> None:
        self.role = ""
        self._id = ""
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self._told: int | None = None

    def start(self, role: str) -> None:
        self.role, self._id = role, uuid4().hex
        self._stopping.clear()
        begin()
        with suppress(OSError):
            folder().mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        with suppress(OSError):
            self.write()

    def write(self) -> None:
        samples = all_samples(self.role)
        with self._writing:
            before = self._told
            self._told = _write(
                self.file, [[s.name, s.labels, s.value] for s in samples]
            )
            if before is not None:
                os.close(before)

    @property
    def file(self) -> Path:
        return folder() / f"{self.role}-{self._id}.json"

    def _run(self) -> None:
        is_told = False
        while not self._stopping.wait(PERIOD_S):
            try:
                self.write()
                is_told = False
            except OSError as error:
                if not is_told:
                    logger.warning("Metrics cannot be written down: %s", error)
                is_told = True


def totals(role: str) -> Totals:
    """Add up the figures of all processes; of this one as they are now."""
    added: Totals = {}
    with suppress(OSError):
        _gather_ended()
    with suppress(OSError):
        for file in folder().glob("*.json"):
            if file != teller.file:
                _add(added, _read(file))
    _add(added, all_samples(role))
    return added


def _add(added: Totals, samples: Iterable[Sample]) -> None:
    for sample in samples:
        key = sample.name, sample.labels
        before = added.get(key)
        if before is None:
            added[key] = sample.value
        elif isinstance(sample.value, list):
            added[key] = [a + b for a, b in zip(before, sample.value, strict=True)]
        elif FAMILIES[sample.name].kind is Kind.HIGHEST:
            added[key] = max(before, sample.value)
        else:
            added[key] = before + sample.value


def _gather_ended() -> None:
    """Put the counts of processes that have ended together, and their files away."""
    ended = [file for file in folder().glob("*-*.json") if _has_ended(file)]
    if not ended:
        return
    with _alone() as is_alone:
        for file in ended if is_alone else ():
            if not file.exists():
                continue
            role = file.stem.partition("-")[0]
            rest = folder() / f"{role}-{ENDED}.json"
            added: Totals = {}
            _add(added, _read(rest))
            _add(added, (sample for sample in _read(file) if _is_lasting(sample)))
            os.close(_write(rest, [[*key, value] for key, value in added.items()]))
            file.unlink()


def _has_ended(path: Path) -> bool:
    if path.stem.endswith(f"-{ENDED}") or path == teller.file:
        return False
    with suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Else it was written anew meanwhile, and this one let go.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _is_lasting(sample: Sample) -> bool:
    return FAMILIES[sample.name].kind in (Kind.COUNTER, Kind.HISTOGRAM)


@contextmanager
def _alone() -> Iterator[bool]:
    """Tell whether no other process does it at the same time."""
    with open(folder() / "lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _read(file: Path) -> list[Sample]:
    try:
        found = orjson.loads(file.read_bytes())
        samples = [Sample(name, tuple(labels), value) for name, labels, value in found]
    except (OSError, ValueError, TypeError):
        return []
    return [sample for sample in samples if _is_ours(sample)]


def _is_ours(sample: Sample) -> bool:
    """Another release may have had another metric by that name, or none."""
    family = FAMILIES.get(sample.name)
    if family is None or len(sample.labels) != len(family.labels):
        return False
    if family.kind is Kind.HISTOGRAM:
        return isinstance(sample.value, list) and len(sample.value) == len(BOUNDS) + 2
    return not isinstance(sample.value, list)


def _write(path: Path, content: Any) -> int:
    """Return a descriptor of what was written. It holds the lock until it is closed."""
    new = path.with_suffix(".new")
    with open(new, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(orjson.dumps(content))
        file.flush()
        new.replace(path)
        return os.dup(file.fileno())


teller = Teller()
