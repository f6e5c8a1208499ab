"""Fault injection into processes, servers and the machine, and repairs."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

from tests.drill.context import Context
from tests.drill.stack import ProductionStack, Stack
from tests.private_server import wait_for

CLOCK_STEP_S = 3600
CLOCK = Path(__file__).parent / "clock"


# --- processes


def kill_web(context: Context) -> None:
    before = context.stack.web_processes()
    context.state["before"] = before
    before[0].kill()


def web_is_restarted(context: Context) -> bool:
    before = context.state["before"]
    with suppress(psutil.NoSuchProcess):
        now = context.stack.web_processes()
        return len(now) >= len(before) and before[0] not in now
    return False


def kill_supervisor(context: Context) -> None:
    process = context.state["killed"] = context.ours.sites[0].compute()
    process.kill()


def supervisor_is_restarted(context: Context) -> bool:
    found = context.ours.sites[0]._having("compute")
    return any(process != context.state["killed"] for process in found)


def kill_pool_process(context: Context) -> None:
    pool = context.state["pool"] = wait_for(context.ours.sites[0].pool)
    pool[0].kill()


def pool_is_complete(context: Context) -> bool:
    pool, killed = context.ours.sites[0].pool(), context.state["pool"][0]
    return len(pool) >= len(context.state["pool"]) and killed not in pool


# --- jobs


def submit_job(task: str) -> Callable[[Context], None]:
    def begin(context: Context) -> None:
        site = context.ours.sites[0]
        headers = {"Authorization": f"Token {context.ours.token}"}
        answer = site.request("POST", "/api/v1/jobs/", {"task": task}, headers)
        context.state["job"] = answer.json()["id"]

    return begin


def job_has_failed(context: Context) -> bool:
    site = context.ours.sites[0]
    headers = {"Authorization": f"Token {context.ours.token}"}
    path = f"/api/v1/jobs/{context.state['job']}"
    return bool(site.request("GET", path, headers=headers).json()["state"] == "failed")


# --- PostgreSQL


def take_all_connections(context: Context) -> None:
    """Terminate the connections of the site, and occupy every slot."""
    url = context.stack.postgres.url()
    taken = context.state["taken"] = []
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


def give_connections_back(context: Context) -> None:
    for connection in context.state["taken"]:
        connection.close()


# --- RabbitMQ


def kill_broker(context: Context) -> None:
    ours = context.ours
    assert ours.rabbitmq
    assert ours.events
    ours.rabbitmq.kill()
    context.state["came"] = len(ours.events.bodies)


def start_broker(context: Context) -> None:
    assert context.ours.rabbitmq
    context.ours.rabbitmq.start()


def events_arrive(context: Context) -> bool:
    events = context.ours.events
    return events is not None and len(events.bodies) > context.state["came"]


# --- the machine


def without_small_disk(stack: Stack) -> str:
    return "" if stack.disk.is_small else "no small disk can be mounted here"


def make_room(context: Context) -> None:
    """Free space as an operator would, and restart PostgreSQL if it has stopped."""
    context.stack.disk.make_room()
    if not context.stack.postgres.running():
        context.stack.postgres.start()


def without_second_site(stack: Stack) -> str:
    if isinstance(stack, ProductionStack) and len(stack.sites) > 1:
        return ""
    return "it restarts a web process, and there is only one"


def install_clock(context: Context) -> None:
    """Restart a web process with a clock that can be set."""
    path = context.state["clock"] = context.stack.disk.folder / "clock"
    path.write_text("0")
    site = context.ours.sites[-1]
    site.stop()
    site.env |= {"PYTHONPATH": str(CLOCK), "CLOCK_FILE": str(path)}
    site.start_web()


def step_clock(context: Context) -> None:
    context.state["clock"].write_text(str(CLOCK_STEP_S))


def step_clock_back(context: Context) -> None:
    context.state["clock"].write_text("0")
