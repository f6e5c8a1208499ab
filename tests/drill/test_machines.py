"""The machines of the drill, and a site on some of them."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from resilient_site.resilience.cache_control import FRESH_S
from tests.drill import command, machine_faults, machines
from tests.drill.faults import Context
from tests.drill.machines import Machine, Network, Unavailable
from tests.drill.machines_stack import MachinesStack
from tests.load.connections import HOST
from tests.private_server import alive, wait_for
from tests.running import ROOT, Answer, Site

pytestmark = [pytest.mark.faults, pytest.mark.once]

PORT = 7000
# Ends a wait for what is lost; what is not lost arrives in less than a millisecond.
SILENCE_S = 0.3

cutting = contextmanager(machine_faults.cut)


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        network = Network()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield network
    network.close()


@contextmanager
def listening(machine: Machine) -> Iterator[socket.socket]:
    with machine.entered():
        server = socket.create_server((machine.address, PORT))
    with server:
        yield server


def reaches(here: Machine, there: Machine) -> bool:
    """Return whether a connection can be made; it waits as long as it has to."""
    with here.entered():
        try:
            socket.create_connection((there.address, PORT), SILENCE_S).close()
        except ConnectionRefusedError:
            raise
        except OSError:  # a time-out, or the kernel knows by then that it is lost
            return False
    return True


@pytest.mark.parametrize("how", ["silence", "unplug", "part"])
def test_cut_link_loses_everything_until_it_is_repaired(network, how):
    one, other, third = map(network.add, ("one", "other", "third"))
    cuts = {
        "silence": (other.silence, other.repair),
        "unplug": (other.unplug, other.plug_in),
        "part": (lambda: network.part(one, other), lambda: network.join(one, other)),
    }
    cut, repair = cuts[how]
    with listening(other):
        wait_for(lambda: reaches(one, other))
        cut()
        assert not reaches(one, other)
        if how == "part":  # one pair alone
            wait_for(lambda: reaches(third, other))
        else:
            assert not reaches(third, other)
        repair()
        wait_for(lambda: reaches(one, other))


def test_slow_link_delays_large_and_small_pieces(network):
    here, there = network.add("here"), network.add("there")
    there.slow_down(0.05, lost=0)
    sent = os.urandom(300_000)

    def connected() -> socket.socket | None:
        """Make a connection, if the other machine can be found by now."""
        with here.entered(), suppress(OSError):
            return socket.create_connection((there.address, PORT))
        return None

    with listening(there) as server:
        client = wait_for(connected)
        peer, _ = server.accept()
    with client, peer:
        began = time.monotonic()
        threading.Thread(target=client.sendall, args=[sent]).start()
        received = b""
        while len(received) < len(sent):
            received += peer.recv(65536)
        assert time.monotonic() - began >= 0.05
    assert received == sent


def test_process_runs_on_the_machine_that_was_entered(network):
    machine, show = network.add("one"), ["readlink", "/proc/self/ns/net"]
    with machine.entered():
        there = subprocess.run(show, capture_output=True).stdout
    assert there != subprocess.run(show, capture_output=True).stdout
    machine.set_sysctl("net.ipv4.tcp_retries2", 3)
    with machine.entered(), open("/proc/sys/net/ipv4/tcp_retries2") as value:
        assert value.read() == "3\n"


def test_next_network_removes_what_a_killed_process_has_left(network):
    leave = (
        "import os, subprocess; from tests.drill.machines import *;"
        "network = Network(); machine = network.add('one')\n"
        "with machine.entered(): left = subprocess.Popen(\n"
        "    ['sleep', '600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "made = len(namespaces(network.prefix))\n"
        "print(network.prefix, network.folder, left.pid, made, flush=True)\n"
        "os._exit(1)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", leave], env=env, capture_output=True, text=True
    )
    prefix, folder, pid, made = done.stdout.split()
    assert made == "2"

    machines.remove_leftovers()

    # Another worker of this run may be about to remove them.
    wait_for(lambda: machines.namespaces(prefix) == [])
    wait_for(lambda: not os.path.exists(folder))
    wait_for(lambda: alive([int(pid)]) == [])
    # Those of a living process stay.
    assert machines.namespaces(network.prefix)


def test_drill_without_machines_says_why(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["drill", "--machines", f"--output={tmp_path}"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.main() == command.NOT_RUN
    assert "only root may make network namespaces" in capsys.readouterr().err


# --- a site


@pytest.fixture(scope="module")
def stack() -> Iterator[MachinesStack]:
    stack = MachinesStack(is_small=True)
    running = stack.running()
    try:
        running.__enter__()
    except Unavailable as reason:
        pytest.skip(str(reason))
    try:
        yield stack
    finally:
        print(stack.output()[-5_000:])  # shown when a test has failed
        running.__exit__(None, None, None)
    assert machines.namespaces(stack.network.prefix) == []


@pytest.fixture
def context(stack) -> Context:
    # A machine that has just been cut off shows nothing that others had sent before.
    wait_for(lambda: all(site.is_whole() for site in stack.sites))
    return Context(stack, clients=None, seconds=0, generator=None)


def test_change_is_seen_on_another_machine(context):
    next(machine_faults.see_changes(context))
    assert context.measured["seen_s"] < FRESH_S - 2


def test_import_is_confirmed_on_another_machine(context):
    next(machine_faults.confirm_elsewhere(context))
    assert context.measured["carried_over"] == 1


def test_machine_without_redis_shows_changes_when_what_it_has_expires(stack, context):
    here, there = stack.sites
    path = f"/api/v1/items/{machine_faults.create_item(context)}"
    by_token = {"Authorization": f"Token {stack.token}"}
    with cutting(machine_faults.between("web-2", "redis"), context):
        there.get(path, **by_token)

        assert here.request("PATCH", path, {"name": "new"}, by_token).status == 200
        wait_for(lambda: there.get(path, **by_token).json().get("name") == "new")


def test_machine_without_database_answers_stale_while_another_writes(stack, context):
    here, there = stack.sites
    path = f"/api/v1/items/{machine_faults.create_item(context)}"
    wait_for(lambda: there.get(path).status == 200)
    pairs = machine_faults.databases_of("web-2", context)
    with cutting(lambda _: pairs, context):
        wait_for(lambda: is_stale(there, path))
        by_token = {"Authorization": f"Token {stack.token}"}
        assert here.request("PATCH", path, {"name": "newer"}, by_token).status == 200
        assert there.request("PATCH", path, {"name": "x"}, by_token).status == 503
    wait_for(lambda: there.get(path).json().get("name") == "newer")


def is_stale(site: Site, path: str, **headers: str) -> bool:
    status = site.get(path, **headers).headers.get("Cache-Status", "")
    return "detail=origin-failed" in status


def test_machine_without_database_sends_a_client_what_another_has_sent_it(
    stack, context
):
    here, there = stack.sites
    # By one address, as nginx passes it on.
    cookie = {"Cookie": f"sessionid={stack.session}", "Host": HOST}
    path = f"/items/{machine_faults.create_item(context)}/"
    assert there.get("/items/", **cookie).status == 200  # it knows the client
    assert here.get(path, **cookie).status == 200
    pairs = machine_faults.databases_of("web-2", context)
    with cutting(lambda _: pairs, context):
        wait_for(lambda: is_stale(there, path, **cookie))
        assert there.get(path, Host=HOST).status == 503  # nobody else was sent it
    wait_for(lambda: there.get(path, Host=HOST).status == 200)


def test_writers_go_on_at_the_standby(stack, context):
    try:
        stack.database.primary.machine.silence()
        stack.database.promote()
        for site in stack.sites:
            wait_for(lambda s=site: write(s, stack.token).status == 201)
    finally:
        stack.database.rejoin()
    assert machine_faults.create_item(context)


def write(site: Site, token: str) -> Answer:
    body, by_token = {"name": "after the failover"}, {"Authorization": f"Token {token}"}
    return site.request("POST", "/api/v1/items/", body, by_token)
