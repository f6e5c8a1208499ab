"""Machines of the drill: network namespaces on one switch, whose links can be cut.

They need root on Linux, and iproute2. Addresses and links are within the namespaces
alone. Those are named after the process that makes them; what such a process has left,
the next one removes.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil

from tests.private_server import has_ended, wait_for

NAMES = Path("/run/netns")
PREFIX = "rs-machines-"
NETWORK = "10.99.0"
# On the switch and on machines.
BRIDGE, LINK = "br0", "eth0"
SLOW_LINK = str(Path(__file__).parent / "slow_link.py")
# No machine has it: a frame to it arrives nowhere.
NOWHERE = "02:00:00:00:00:01"


class Unavailable(Exception):
    """This system allows no such machines; the message says why."""


def run(*command: str) -> str:
    """Run a command of iproute2. Raises OSError."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Have this thread, and what it starts, run in a namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        here = os.open(NAMES / namespace, os.O_RDONLY)
        os.setns(here, os.CLONE_NEWNET)
        os.close(here)
        yield
    finally:
        os.setns(before, os.CLONE_NEWNET)
        os.close(before)


class Network:
    """A switch, the machines that are connected to it, and a folder for their data."""

    def __init__(self) -> None:
        """Make the switch. Raises Unavailable."""
        if sys.platform != "linux" or not hasattr(os, "setns"):
            raise Unavailable("network namespaces are of Linux")
        if os.geteuid():
            raise Unavailable("only root may make network namespaces")
        if not shutil.which("ip"):
            raise Unavailable("iproute2 is not installed")
        remove_leftovers()
        self.machines: list[Machine] = []
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.folder.chmod(0o755)  # servers run as the user nobody
        self.prefix = f"{self.folder.name}-"
        self.switch = f"{self.prefix}switch"
        try:
            run("ip", "netns", "add", self.switch)
            run("ip", "-n", self.switch, "link", "add", BRIDGE, "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", BRIDGE, "up")
        except OSError as error:
            self.close()
            raise Unavailable(str(error)) from error

    def add(self, name: str) -> "Machine":
        """Connect a machine, whose name has up to 15 characters."""
        machine = Machine(self, name, f"{NETWORK}.{len(self.machines) + 10}")
        self.machines.append(machine)
        return machine

    def part(self, one: "Machine", other: "Machine") -> None:
        """Lose what these two send each other, without a word to either."""
        for here, there in ((one, other), (other, one)):
            here.set_neighbour(there, NOWHERE)

    def join(self, one: "Machine", other: "Machine") -> None:
        for here, there in ((one, other), (other, one)):
            here.set_neighbour(there, there.hardware_address)

    def close(self) -> None:
        """Remove all; what runs on the machines has to be stopped before."""
        for machine in self.machines:
            machine.end_slow_link()
        for name in namespaces(self.prefix):
            run("ip", "netns", "delete", name)
        shutil.rmtree(self.folder, ignore_errors=True)


class Machine:
    """A namespace with an address, and a link to the switch."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.name, self.address = name, address
        self._slow_link: subprocess.Popen[bytes] | None = None
        self.namespace, self._switch = f"{network.prefix}{name}", network.switch
        run("ip", "netns", "add", self.namespace)
        peer = "peer", "name", name, "netns", self._switch
        run("ip", "-n", self.namespace, "link", "add", LINK, "type", "veth", *peer)
        run(
            "ip", "-n", self._switch, "link", "set", "dev", name, "master", BRIDGE, "up"
        )
        run("ip", "-n", self.namespace, "address", "add", f"{address}/24", "dev", LINK)
        for link in ("lo", LINK):
            run("ip", "-n", self.namespace, "link", "set", link, "up")
        shown = run("ip", "-n", self.namespace, "-brief", "link", "show", LINK)
        self.hardware_address = shown.split()[2]

    def entered(self) -> AbstractContextManager[None]:
        """Have this thread, and what it starts, run on this machine."""
        return entered(self.namespace)

    def unplug(self) -> None:
        """Take the cable out: the machine sees that it has no carrier."""
        run("ip", "-n", self._switch, "link", "set", "dev", self.name, "down")

    def plug_in(self) -> None:
        run("ip", "-n", self._switch, "link", "set", "dev", self.name, "up")

    def silence(self) -> None:
        """Lose all that it sends and is sent; its link seems to work."""
        run("ip", "-n", self._switch, "link", "set", "dev", self.name, "nomaster")

    def slow_down(self, delay_s: float, lost: float) -> None:
        """Delay what passes its link in each direction, and lose a share of it."""
        near, far = f"{self.name}-n", f"{self.name}-f"
        peer = "peer", "name", far
        run("ip", "-n", self._switch, "link", "add", near, "type", "veth", *peer)
        run("ip", "-n", self._switch, "link", "set", "dev", near, "up")
        run("ip", "-n", self._switch, "link", "set", "dev", far, "master", BRIDGE, "up")
        self.silence()
        command = [sys.executable, SLOW_LINK, self.name, near, str(delay_s), str(lost)]
        with entered(self._switch):
            self._slow_link = subprocess.Popen(command)

    def repair(self) -> None:
        """End `silence` and `slow_down`."""
        self.end_slow_link()
        run("ip", "-n", self._switch, "link", "set", "dev", self.name, "master", BRIDGE)

    def end_slow_link(self) -> None:
        if self._slow_link:
            self._slow_link.kill()
            self._slow_link.wait()
            self._slow_link = None
            near = f"{self.name}-n"
            run("ip", "-n", self._switch, "link", "delete", "dev", near)

    def set_neighbour(self, other: "Machine", hardware_address: str) -> None:
        entry = other.address, "lladdr", hardware_address, "dev", LINK
        run("ip", "-n", self.namespace, "neighbour", "replace", *entry)

    def set_sysctl(self, name: str, value: int) -> None:
        with self.entered():
            Path("/proc/sys", *name.split(".")).write_text(str(value))

    def kill(self) -> None:
        """Kill all of its processes."""
        kill_processes(self.namespace)


# --- what is left


def remove_leftovers() -> None:
    """Remove the namespaces, processes and files that a killed process has left."""
    folders = Path(tempfile.gettempdir()).glob(f"{PREFIX}*")
    for name in {*namespaces(PREFIX), *(folder.name for folder in folders)}:
        maker = name.removeprefix(PREFIX).partition("-")[0]
        if not psutil.pid_exists(int(maker)):
            kill_processes(name)
            with suppress(OSError):  # a folder, or another process was faster
                run("ip", "netns", "delete", name)
            shutil.rmtree(Path(tempfile.gettempdir(), name), ignore_errors=True)


def namespaces(prefix: str) -> list[str]:
    return sorted(path.name for path in NAMES.glob(f"{prefix}*"))


def kill_processes(namespace: str) -> None:
    """Kill the processes in a namespace but this one."""
    killed = []
    with suppress(OSError):
        for pid in run("ip", "netns", "pids", namespace).split():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if int(pid) != os.getpid():
                    killed.append(psutil.Process(int(pid)))
                    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: all(map(has_ended, killed)))


def is_answered(address: str, port: int, timeout_s: float) -> bool:
    """Return whether a connection is accepted there."""
    try:
        socket.create_connection((address, port), timeout_s).close()
    except OSError:
        return False
    return True
