"""Breaking processes, servers and the machine, and mending what cannot mend itself."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

from tests.drill.context import Context
from tests.drill.stack import Ours, Stack
from tests.private_server import wait_for

CLOCK_STEP_S = 3600
CLOCK = Path(__file__).parent / "clock"


# --- processes


def kill_web(context: Context) -> None:
    before = context.stack.web_processes()
    context.notes["before"] = before
    before[0].kill()


def web_is_back(context: Context) -> bool:
    before = context.notes["before"]
    with suppress(psutil.NoSuchProcess):
        now = context.stack.web_processes()
        return len(now) >= len(before) and before[0] not in now
    return False


def kill_supervisor(context: Context) -> None:
    process = context.notes["killed"] = context.ours.sites[0].compute()
    process.kill()


def supervisor_is_back(context: Context) -> bool:
    found = context.ours.sites[0]._having("compute")
    return any(process != context.notes["killed"] for process in found)


def kill_pool_process(context: Context) -> None:
    pool = context.notes["pool"] = wait_for(context.ours.sites[0].pool)
    pool[0].kill()


def pool_is_whole(context: Context) -> bool:
    pool, killed = context.ours.sites[0].pool(), context.notes["pool"][0]
    return len(pool) >= len(context.notes["pool"]) and killed not in pool


# --- jobs


def begin_job(task: str) -> Callable[[Context], None]:
    def begin(context: Context) -> None:
        site = context.ours.sites[0]
        headers = {"Authorization": f"Token {context.ours.token}"}
        answer = site.request("POST", "/api/v1/jobs/", {"task": task}, headers)
        context.notes["job"] = answer.json()["id"]

    return begin


def job_has_failed(context: Context) -> bool:
    site = context.ours.sites[0]
    headers = {"Authorization": f"Token {context.ours.token}"}
    path = f"/api/v1/jobs/{context.notes['job']}"
    return bool(site.request("GET", path, headers=headers).json()["state"] == "failed")


# --- PostgreSQL


def take_all_connections(context: Context) -> None:
    """End those of the site, and take every place before it does."""
    url = context.stack.postgres.url()
    taken = context.notes["taken"] = []
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
    context.whole_at = time.monotonic()


def give_connections_back(context: Context) -> None:
    for connection in context.notes["taken"]:
        connection.close()


# --- RabbitMQ


def kill_broker(context: Context) -> None:
    ours = context.ours
    assert ours.rabbitmq
    assert ours.events
    ours.rabbitmq.kill()
    context.notes["came"] = len(ours.events.bodies)


def start_broker(context: Context) -> None:
    assert context.ours.rabbitmq
    context.ours.rabbitmq.start()


def events_come_again(context: Context) -> bool:
    events = context.ours.events
    return events is not None and len(events.bodies) > context.notes["came"]


# --- the machine


def cannot_fill(stack: Stack) -> str:
    return "" if stack.disk.is_small else "no small disk can be mounted here"


def make_room(context: Context) -> None:
    """As an operator does: room, and PostgreSQL again if it has given up."""
    context.stack.disk.make_room()
    if not context.stack.postgres.running():
        context.stack.postgres.start()


def cannot_step(stack: Stack) -> str:
    if isinstance(stack, Ours) and len(stack.sites) > 1:
        return ""
    return "a web process is to be started anew for it, and there is but one"


def give_clock(context: Context) -> None:
    """Start one of the web processes anew, with a clock that can be set."""
    path = context.notes["clock"] = context.stack.disk.folder / "clock"
    path.write_text("0")
    site = context.ours.sites[-1]
    site.stop()
    site.env |= {"PYTHONPATH": str(CLOCK), "CLOCK_FILE": str(path)}
    site.start_web()


def step_clock(context: Context) -> None:
    context.notes["clock"].write_text(str(CLOCK_STEP_S))


def step_clock_back(context: Context) -> None:
    context.notes["clock"].write_text("0")
