"""Base class of the private servers of the tests: on loopback, each in a directory.

A test may stop, kill or pause its own and start it again on the same port and data.
As root they run as `nobody`: PostgreSQL refuses root, and no test needs it.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import functools
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil

DEMOTE: dict[str, Any] = {}
if os.geteuid() == 0:
    _nobody = pwd.getpwnam("nobody")
    DEMOTE = {"user": _nobody.pw_uid, "group": _nobody.pw_gid, "extra_groups": []}


LOOPBACK = "127.0.0.1"
# How much a busy machine may add to any time.
BUSY_S = 4.0
# Below the ephemeral range, inside which a client that calls a killed server can be
# given the server's own port as its source, and so connect to itself. The workers of a
# run share them out: a port may be free for a while before or between uses.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
PORTS = range(15_000 + WORKER, 32_000, WORKERS)

_given_ports: set[int] = set()


def free_port() -> int:
    """A free port, which no other test is given."""
    while True:
        port = secrets.choice(PORTS)
        if port in _given_ports:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            _given_ports.add(port)
            return port


def _temp_dir(name: str, parent: Path | None = None) -> Path:
    # Root's own TMPDIR may be closed to nobody.
    parent = parent or (Path("/tmp") if DEMOTE else None)
    path = Path(tempfile.mkdtemp(prefix=f"rs-{name}-", dir=parent))
    if DEMOTE:
        os.chown(path, DEMOTE["user"], DEMOTE["group"])
    return path


def in_package(name: str, pattern: str) -> Path | None:
    """Return a file of a wheel without importing the package."""
    spec = importlib.util.find_spec(name)
    for place in spec.submodule_search_locations or () if spec else ():
        for path in Path(place).glob(pattern):
            return path
    return None


@functools.cache
def within_reach(exe: Path) -> Path:
    """`exe`, or a copy if nobody cannot run it: a checkout below a 0700 home."""
    try:
        subprocess.run([exe, "--version"], cwd="/", capture_output=True, **DEMOTE)
    except PermissionError:
        pass
    else:
        return exe
    copy = _temp_dir("bin")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    if exe.parent.name != "bin":
        return Path(shutil.copy2(exe, copy))
    # PostgreSQL finds its own files from bin; the wheel's libpq is in PACKAGE.libs.
    prefix = exe.parents[1]
    package = prefix.parent
    libs = package.with_name(f"{package.name}.libs")
    shutil.copytree(prefix, copy / package.name / prefix.name, symlinks=True)
    if libs.is_dir():
        shutil.copytree(libs, copy / libs.name, symlinks=True)
    return copy / exe.relative_to(package.parent)


@functools.cache
def dies_with_parent(signal_name: str) -> tuple[str, ...]:
    """Return a command prefix that ends the server even if this process is killed.

    The kernel means the starting thread: start a server in the main one.
    """
    prefix = ("setpriv", "--pdeathsig", signal_name)
    if sys.platform != "linux" or not shutil.which("setpriv"):
        return ()
    done = subprocess.run([*prefix, "true"], capture_output=True)
    return prefix if done.returncode == 0 else ()


def has_ended(process: psutil.Process) -> bool:
    """Return whether the process has ended, zombies included."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def alive(process_ids: list[int]) -> list[int]:
    """Return those of these processes that have not ended."""
    found = []
    for process_id in process_ids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if not has_ended(psutil.Process(process_id)):
                found.append(process_id)
    return found


def wait_for[T](
    answer: Callable[[], T], timeout: float = 90, longest_pause_s: float = 0.05
) -> T:
    """Call `answer` until it returns something true, and return that."""
    deadline, pause_s = time.monotonic() + timeout, 0.005
    while not (given := answer()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Still {given!r} after {timeout} seconds")
        time.sleep(pause_s)
        # Ever more seldom: the question takes time from what it asks about.
        pause_s = min(1.5 * pause_s, longest_pause_s)
    return given


class Server(abc.ABC):
    """One server process; a subclass has its command and says when it is ready."""

    name = "server"
    stop_signal = signal.SIGTERM
    demoted = DEMOTE

    def __init__(self, folder: Path | None = None, host: str = LOOPBACK) -> None:
        """Create its directory, below `folder` if one is given."""
        self.host, self.port = host, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.dir = _temp_dir(self.name, folder)
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.dir),
            "LC_ALL": "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8",
        }
        atexit.register(self.close)

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Return the command that starts it in the foreground."""

    @abc.abstractmethod
    def ready(self) -> bool:
        """Return whether it responds; an exception means not yet."""

    def start(self, timeout: float = 90) -> Self:
        prefix = dies_with_parent(self.stop_signal.name.removeprefix("SIG"))
        # A session of its own: Ctrl-C is for pytest, which then stops the server.
        options: dict[str, Any] = {"cwd": self.dir, "start_new_session": True}
        with (self.dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command()],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **options,
                **self.demoted,
            )
        deadline = time.monotonic() + timeout
        try:
            while not self.ready():
                if not self.running() or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} did not start:\n{self.log()}")
                time.sleep(0.02)
        except BaseException:
            self.close()
            raise
        return self

    def log(self) -> str:
        return (self.dir / "log").read_text(errors="replace")[-4000:]

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout: float = 60) -> None:
        """Stop it in an orderly way, also when it is paused."""
        if self.process and self.running():
            self._signal(signal.SIGCONT)
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process and self.running():
            killed = self._signal(signal.SIGKILL)
            self.process.wait(60)
            wait_for(lambda: all(map(has_ended, killed)))

    def pause(self) -> None:
        """Make it hang: it accepts connections and does not respond."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop for good and remove the data."""
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
        atexit.unregister(self.close)

    def processes(self) -> list[psutil.Process]:
        if not self.process or not self.running():
            return []
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def _signal(self, signum: signal.Signals) -> list[psutil.Process]:
        # Process by process: PostgreSQL's are not in their parent's group.
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)
        return processes
