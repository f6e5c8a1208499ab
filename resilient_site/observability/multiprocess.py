"""The directory in which processes share metrics: Prometheus's multiprocess mode.

The files are mapped into memory, where a full disk would kill the process that writes:
so they are in a file system in memory, where one can be used. That it is full itself
is not handled.
"""

import atexit
import os
import zlib
from contextlib import suppress
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
APART = "apart"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def share(data_dir: Path) -> None:
    """Share the metrics of this process and its children; before prometheus_client."""
    name = f"resilient-site-{os.getuid()}-{zlib.crc32(bytes(data_dir)):08x}"
    in_memory = [SHARED_MEMORY / name] if SHARED_MEMORY.is_dir() else []
    chosen = os.environ.pop(VARIABLE, "")
    for directory in [Path(chosen)] if chosen else [*in_memory, data_dir / "metrics"]:
        with suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_uid == os.getuid():  # not another user's
                os.environ[VARIABLE] = str(directory)
                remove_dead()
                atexit.register(remove_dead, is_ending=True)
                return


def keep_apart() -> None:
    """Have this process and its children write theirs where none reads them."""
    if directory := os.environ.get(VARIABLE):
        apart = Path(directory, APART)
        with suppress(OSError):
            apart.mkdir(mode=0o700, exist_ok=True)
        os.environ[VARIABLE] = str(apart)


def remove_dead(*, is_ending: bool = False) -> None:
    """Remove the gauges of processes that have ended, and all once none is alive.

    Counters of ended processes stay in the sum meanwhile, so that it does not fall.
    """
    if (directory := os.environ.get(VARIABLE)) is None:
        return
    with suppress(OSError):
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {
        path: path.stem.rpartition("_")[2] for path in Path(directory).glob("*.db")
    }
    ended = {str(os.getpid())} if is_ending else set()
    alive = {pid for pid in files.values() if _is_alive(pid)} - ended
    for path in Path(directory, APART).glob("*.db"):
        if not _is_alive(path.stem.rpartition("_")[2]):
            path.unlink(missing_ok=True)
    for path, pid in files.items():
        if not alive or (pid not in alive and path.name.startswith("gauge_live")):
            path.unlink(missing_ok=True)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
