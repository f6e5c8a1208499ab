"""Faults of the drill: how each is injected and healed, and what must recover.

A fault is a generator: what comes before its `yield` injects it, what comes after heals
it. An instantaneous fault (a kill) is not healed: the site must recover by itself.
"""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.drill.clients import ITEMS, JOBS
from tests.drill.history import Outcome
from tests.drill.stack import Stack
from tests.load import load_generator
from tests.load.connections import Answer, Connections, request_bytes
from tests.load.request_template import RequestTemplate
from tests.private_server import Server, alive, wait_for
from tests.running import ROOT, Site

REDIS_DELAY_S = 0.3
DISTANCE_S = 0.3
OVERLOAD_TIMES = 5.0
CAPACITY_S = 1.0
CAPACITY_CLIENTS = (8, 32)
HERD = 200
DRIPPING, NOT_READING = 150, 50
CLOCK_STEP_S = 3600
CLOCK = Path(__file__).parent / "clock"

# Patterns in the log of the site.
CACHE = r"breaker for the cache opened"
DATABASE = r"breaker for the database opened"
LOCK = r"calls of the database fail.*lock timeout"
BROKER = r"breaker for the broker opened"

# What clients meet while there is no database.
AWAY = frozenset({("read", Outcome.STALE), ("write", Outcome.REJECTED)})

# What a fault needs in the stack.
NEEDS = {
    "": lambda stack: True,
    "a broker": lambda stack: stack.rabbitmq,
    "a small disk": lambda stack: stack.disk.is_small,
    "nginx": lambda stack: len(stack.sites) > 1,
}


@dataclass
class Context:
    """State of one fault; the fault sets what comes after `generator`."""

    stack: Any
    clients: Any
    seconds: float
    # A process beside this one, for the traffic of many clients.
    generator: Executor
    # The id of a job that `prepare` has submitted.
    job: str = ""
    # Figures for the report.
    measured: dict[str, float] = field(default_factory=dict)
    # When the injection was complete, if later than its start.
    complete_at: float | None = None
    # The site that gets an older dump.
    older: Any = None
    # Called repeatedly during the fault.
    sustain: Callable[[], object] = lambda: None
    # Returns whether what the load does not show has recovered.
    is_recovered: Callable[[], bool] = lambda: True


@dataclass
class Fault:
    """A fault of some seconds; 0 is instantaneous."""

    name: str
    title: str
    seconds: float
    inject: Callable[[Context], Iterator[None]]
    # Its pattern in the log of the site; "": none.
    log_pattern: str = ""
    needs: str = ""
    # What the clients must have met before it is healed, however busy the machine is.
    shows: frozenset[tuple[str, Outcome]] = frozenset()
    # Called before the load is measured.
    prepare: Callable[[Context], None] = lambda context: None
    # Called after the recovery, for the faults that follow.
    clean_up: Callable[[Context], None] = lambda context: None
    is_quick: bool = False

    def is_possible(self, stack: Stack) -> bool:
        return bool(NEEDS[self.needs](stack))


# --- servers


def end(server: Server, how: Callable[[Server], None]) -> Iterator[None]:
    how(server)
    yield
    server.start()


def pause(*servers: Server) -> Iterator[None]:
    for server in servers:
        server.pause()
    yield
    for server in servers:
        server.resume()


def slow_redis(context: Context) -> Iterator[None]:
    context.stack.to_redis.delay_s = REDIS_DELAY_S
    yield
    context.stack.to_redis.delay_s = 0


def take_all_connections(context: Context) -> Iterator[None]:
    """Terminate the connections of the site, and occupy every slot."""
    url = context.stack.postgres.url()
    taken: list[psycopg.Connection] = []
    end_others = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> ALL(%s)
    """
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            taken.append(psycopg.connect(url, connect_timeout=2, autocommit=True))
        except psycopg.OperationalError:
            ours = [one.info.backend_pid for one in taken]
            ended = taken[0].execute(end_others, [ours]).fetchall() if taken else []
            if not ended:
                break
    context.complete_at = time.monotonic()
    yield
    for connection in taken:
        connection.close()


def hold_transaction(context: Context) -> Iterator[None]:
    """Leave a transaction open in another database of the cluster; follow the feed."""
    url, page = context.stack.postgres.url("template1"), "/api/v1/changes?since=now"
    context.measured["delivered"] = 0

    def follow() -> None:
        nonlocal page
        found = context.stack._get(page)
        context.measured["delivered"] += len(found["results"])
        page = found["next"]

    with psycopg.connect(url) as other:
        other.execute("SELECT pg_current_xact_id()")
        context.sustain = follow
        yield


def fail_over(context: Context) -> Iterator[None]:
    """Make all connections read-only, as the primary becomes that; new ones work."""
    name = "default_transaction_read_only"
    with administering(context) as execute:
        execute(f"ALTER ROLE CURRENT_USER SET {name} = off")
        execute(f"ALTER SYSTEM SET {name} = on")
        execute("SELECT pg_reload_conf()")
        yield
        execute(f"ALTER SYSTEM RESET {name}")
        execute(f"ALTER ROLE CURRENT_USER RESET {name}")
        execute("SELECT pg_reload_conf()")


@contextmanager
def administering(context: Context) -> Iterator[Callable[[str], object]]:
    url, options = context.stack.postgres.url(), "-c default_transaction_read_only=off"
    with psycopg.connect(url, autocommit=True, options=options) as admin:
        yield admin.execute


def lock_table(context: Context) -> Iterator[None]:
    with psycopg.connect(context.stack.postgres.url()) as other:
        other.execute("LOCK TABLE items_item IN ACCESS EXCLUSIVE MODE")
        yield


def put_network_between(context: Context) -> None:
    if context.stack.put_network_before_postgres():
        # A site that was down has no responses of single clients any more: who lost
        # their rights meanwhile must not read them.
        context.clients.first_read.clear()


def lose_network(context: Context) -> Iterator[None]:
    """Lose all connections without a word; a job that is submitted then must end."""
    context.stack.to_postgres.lose()
    context.is_recovered = job_of(context)
    yield


def job_of(context: Context) -> Callable[[], bool]:
    """Return what submits a job, and then returns whether it is done."""
    send = sender(context)
    job = {"task": "heavy_computation", "params": {"size": 1_000}}
    path = ""

    def has_done_it() -> bool:
        nonlocal path
        if not path:
            answer = send("POST", JOBS, job)
            if answer.status != 202:
                return False
            path = f"{JOBS}{answer.json()['id']}"
        return send("GET", path).json().get("state") == "succeeded"

    return has_done_it


def move_away(context: Context) -> Iterator[None]:
    context.stack.to_postgres.delay_s = DISTANCE_S / 2
    yield
    context.stack.to_postgres.delay_s = 0


def start_follower(context: Context) -> None:
    """Start a site with a database of its own, and a follower of its changes.

    Both have what was changed after the last backup.
    """
    stack, folder = context.stack, context.stack.disk.folder / "older"
    with psycopg.connect(stack.postgres.url(), autocommit=True) as server:
        server.execute("CREATE DATABASE older")
    site, token, _ = Site.on_postgres(stack.postgres.url("older"), folder)
    site.env["PATH"] = f"{stack.postgres.bin}{os.pathsep}{site.env['PATH']}"
    stack.cleanup.callback(site.stop)
    site.start_web()
    example = str(ROOT / "deploy" / "examples" / "keep_a_copy.py")
    url = f"http://{site.host}:{site.port}"
    with open(folder / "follower", "wb") as output:
        follower = subprocess.Popen(
            [sys.executable, example, url, str(folder / "copy")], stderr=output
        )
    stack.cleanup.callback(follower.wait)
    stack.cleanup.callback(follower.kill)
    context.older = OlderDump(site, token, folder)
    context.older.write("POST", "first")
    context.older.manage("backup", str(folder / "dump"))
    context.older.write("PATCH", "lost")
    wait_for(lambda: context.older.is_copied("lost"))


def put_older_dump_back(context: Context) -> Iterator[None]:
    """Restore it, and give an item the version that the follower has already."""
    older = context.older
    older.site.stop()
    older.manage("restore", "--yes", str(older.folder / "dump"))
    older.site.start_web()
    older.write("PATCH", "kept")
    context.is_recovered = lambda: older.is_copied("kept")
    yield


@dataclass
class OlderDump:
    """A site, and the copy of its items that a follower keeps."""

    site: Site
    token: str
    folder: Path

    def manage(self, *args: str) -> None:
        done = self.site.manage(*args)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def write(self, method: str, name: str) -> None:
        path = ITEMS if method == "POST" else f"{ITEMS}thing"
        body = {"id": "thing", "name": name}
        headers = {"Authorization": f"Token {self.token}"}
        answer = self.site.request(method, path, body, headers)
        if answer.status not in (200, 201):
            raise RuntimeError(f"{answer.status} {answer.body!r}")

    def is_copied(self, name: str) -> bool:
        """Return whether this item, of this name, is all that the follower has."""
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(self.folder / "copy")) as copy,
        ):
            rows = copy.execute("SELECT state FROM item").fetchall()
            return [json.loads(state)["name"] for (state,) in rows] == [name]
        return False


def kill_broker(context: Context) -> Iterator[None]:
    received = context.stack.events.bodies
    context.stack.rabbitmq.kill()
    number = len(received)
    context.is_recovered = lambda: len(received) > number
    yield
    context.stack.rabbitmq.start()


# --- processes and jobs


def kill_one(
    processes: Callable[[], list[psutil.Process]],
    context: Context,
    how: Callable[[psutil.Process], None] = psutil.Process.kill,
) -> Iterator[None]:
    """Kill or stop the first of these processes, which must be replaced."""
    before = wait_for(processes)
    how(before[0])

    def is_replaced() -> bool:
        with suppress(psutil.NoSuchProcess):
            now = processes()
            return len(now) >= len(before) and before[0] not in now
        return False

    context.is_recovered = is_replaced
    yield


def submit_job(task: str, context: Context) -> Iterator[None]:
    """Submit a job that ends badly."""
    send = sender(context)
    job = send("POST", JOBS, {"task": task}).json()["id"]
    path = f"{JOBS}{job}"
    context.is_recovered = lambda: send("GET", path).json().get("state") == "failed"
    yield


def sender(context: Context) -> Callable[..., Any]:
    token = {"Authorization": f"Token {context.stack.token}"}
    return partial(context.stack.sites[0].request, headers=token)


def start_processes(context: Context) -> None:
    """Submit a job, and wait until it has started its processes."""
    task = {"task": "leave_processes", "params": {"end": "loop"}}
    context.job = sender(context)("POST", JOBS, task).json()["id"]
    wait_for(lambda: len(processes_of_job(context)) == 3)


def processes_of_job(context: Context) -> list[int]:
    path = Path(f"{context.stack.disk.folder}/record-{context.job}")
    if not path.exists():
        return []
    return [int(line) for line in path.read_text().splitlines()]


def kill_supervisor(context: Context) -> Iterator[None]:
    """Kill the supervisor of the pool; jobs run again on the processes of a new one."""
    site = context.stack.sites[0]
    yield from kill_one(lambda: site._having("compute"), context)
    is_replaced = context.is_recovered

    def has_pool() -> bool:
        with suppress(psutil.NoSuchProcess):
            return is_replaced() and bool(site.pool())
        return False

    context.is_recovered = has_pool


def kill_supervisor_of_processes(context: Context) -> Iterator[None]:
    """Kill the supervisor while a job has processes, which must not outlive it."""
    started = processes_of_job(context)
    yield from kill_supervisor(context)
    is_replaced = context.is_recovered
    context.is_recovered = lambda: is_replaced() and not alive(started)
    sender(context)("POST", f"{JOBS}{context.job}/cancel")


# --- traffic


def overload(context: Context) -> Iterator[None]:
    """Measure the capacity, then send five times as much."""
    stack = context.stack
    # Each request is a new search.
    search = RequestTemplate(stack.port, f"{ITEMS}?search=nothing{{count}}")
    rates = []
    for clients in CAPACITY_CLIENTS:
        load = load_generator.in_closed_loop, search, clients, CAPACITY_S
        seen = context.generator.submit(*load).result()
        rates.append(sum(one.is_answered for one in seen) / CAPACITY_S)
    capacity = max(rates)
    context.complete_at = time.monotonic()
    load = load_generator.in_open_loop, search, OVERLOAD_TIMES * capacity
    flood = context.generator.submit(*load, context.seconds)
    yield
    good = sum(one.is_answered and one.took_s < 1 for one in flood.result())
    goodput = good / context.seconds / max(capacity, 1.0)
    context.measured |= {"capacity": capacity, "goodput": goodput}


def herd(context: Context) -> Iterator[None]:
    """Send one uncached request from all clients at once."""
    request = request_bytes("GET", f"{ITEMS}?search={os.urandom(8).hex()}")

    async def send_all() -> list[Answer | BaseException]:
        connections = Connections(context.stack.port)
        sent = (asyncio.wait_for(connections.send(request), 10) for _ in range(HERD))
        return await asyncio.gather(*sent, return_exceptions=True)

    answers = [one for one in asyncio.run(send_all()) if isinstance(one, Answer)]
    context.measured["answered"] = sum(one.status == 200 for one in answers)
    sources = [one.headers.get("cache-status", "") for one in answers]
    context.measured["fetched"] = sum(
        "hit" not in source and "collapsed" not in source for source in sources
    )
    yield


def slow_clients(context: Context) -> Iterator[None]:
    """Some clients send a request byte by byte, others do not read the response."""
    export = f"GET {ITEMS}export HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    sockets = []
    for number in range(DRIPPING + NOT_READING):
        peer = socket.create_connection(("127.0.0.1", context.stack.port), timeout=5)
        if number < DRIPPING:
            peer.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        else:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.sendall(export.encode())
        sockets.append(peer)

    def drip() -> None:
        for peer in sockets:
            with suppress(OSError):
                peer.sendall(b"x")

    context.sustain = drip
    yield
    for peer in sockets:
        peer.close()


# --- the machine


def fill_disk(context: Context) -> Iterator[None]:
    context.stack.disk.fill()
    yield
    # As an operator would: PostgreSQL may have stopped.
    context.stack.disk.make_room()
    if not context.stack.postgres.running():
        context.stack.postgres.start()


def install_clock(context: Context) -> None:
    """Restart a web process with a clock that can be set."""
    clock_file(context).write_text("0")
    site = context.stack.sites[-1]
    site.stop()
    site.env |= {"PYTHONPATH": str(CLOCK), "CLOCK_FILE": str(clock_file(context))}
    site.start_web()


def clock_file(context: Context) -> Path:
    return context.stack.disk.folder / "clock"


def step_clock(context: Context) -> Iterator[None]:
    clock_file(context).write_text(str(CLOCK_STEP_S))
    yield
    clock_file(context).write_text("0")


FAULTS = (
    Fault(
        "redis-killed", "Redis is killed", 4,
        lambda c: end(c.stack.redis, Server.kill), CACHE,
    ),
    Fault(
        "redis-stopped", "Redis hangs (SIGSTOP)", 4,
        lambda c: pause(c.stack.redis), CACHE, is_quick=True,
    ),
    Fault(
        "redis-slow", f"Redis takes {REDIS_DELAY_S} s for each answer", 4,
        slow_redis, CACHE,
    ),
    Fault(
        "postgres-killed", "PostgreSQL is killed", 4,
        lambda c: end(c.stack.postgres, Server.kill), DATABASE, shows=AWAY,
        is_quick=True,
    ),
    Fault(
        "postgres-stopped", "PostgreSQL hangs (SIGSTOP)", 4,
        lambda c: pause(c.stack.postgres), DATABASE, shows=AWAY,
    ),
    Fault(
        "both-stopped", "Redis and PostgreSQL hang", 4,
        lambda c: pause(c.stack.redis, c.stack.postgres), DATABASE, shows=AWAY,
    ),
    Fault(
        "postgres-restarted", "PostgreSQL is restarted", 0.01,
        lambda c: end(c.stack.postgres, Server.stop), DATABASE,
    ),
    Fault(
        "postgres-connections", "PostgreSQL has no connection left", 4,
        take_all_connections, DATABASE,
    ),
    Fault(
        "other-database", "A transaction stays open in another database", 4,
        hold_transaction,
    ),
    Fault(
        "postgres-failover", "Connections to PostgreSQL become read-only (failover)", 3,
        fail_over,
    ),
    Fault("table-locked", "A table is locked", 3, lock_table, LOCK),
    Fault(
        "web-stopped", "A web process hangs (SIGSTOP)", 0,
        lambda c: kill_one(c.stack.web_processes, c, psutil.Process.suspend), "SIGKILL",
    ),
    Fault(
        "older-dump", "An older dump is put back, with a follower of the changes", 0.01,
        put_older_dump_back, prepare=start_follower,
    ),
    Fault(
        "web-killed", "A web process is killed", 0,
        lambda c: kill_one(c.stack.web_processes, c), "SIGKILL", is_quick=True,
    ),
    Fault(
        "supervisor-killed", "The supervisor of the pool is killed", 0,
        kill_supervisor, r"compute ended", is_quick=True,
    ),
    Fault(
        "job-processes", "The supervisor is killed while a job has processes", 0,
        kill_supervisor_of_processes, r"compute ended", prepare=start_processes,
    ),
    Fault(
        "pool-killed", "A process of the pool is killed", 0,
        lambda c: kill_one(c.stack.sites[0].pool, c),
    ),
    Fault(
        "poison-job", "A job crashes its process", 0,
        partial(submit_job, "segfault"), r"A pool process ended",
    ),
    Fault(
        "hungry-job", "A job allocates memory without limit", 0,
        partial(submit_job, "eat_memory"),
    ),
    Fault("overload", "Overload: five times the capacity", 4, overload, is_quick=True),
    Fault(
        "cold-herd", f"{HERD} clients send one uncached request at once", 0, herd
    ),
    Fault(
        "slow-clients", f"{DRIPPING + NOT_READING} slow clients", 4, slow_clients
    ),
    Fault(
        "broker-restarted", "RabbitMQ is killed and started again", 0.01,
        kill_broker, BROKER, "a broker",
    ),
    Fault("disk-full", "The disk is full", 4, fill_disk, needs="a small disk"),
    Fault(
        "clock-step", "The clock of a web process steps by an hour, and back", 4,
        step_clock, needs="nginx", prepare=install_clock,
    ),
    # The last, as they put a proxy before PostgreSQL.
    Fault(
        "network-lost", "The network loses all connections to PostgreSQL", 0,
        lose_network, DATABASE, needs="nginx", prepare=put_network_between,
    ),
    Fault(
        "postgres-far", f"PostgreSQL is {DISTANCE_S} s away", 4, move_away,
        needs="nginx", prepare=put_network_between,
    ),
)  # fmt: skip
