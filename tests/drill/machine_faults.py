"""Faults of many machines: links that are cut, slow or flapping, and lost machines.

Besides, what has to work across machines without a fault: these measure something, too.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from resilient_site.resilience.cache_control import FRESH_S
from tests.drill.clients import ITEMS, JOBS
from tests.drill.faults import BROKER, CACHE, DATABASE, Context, Fault, job_of
from tests.drill.history import IS_ANSWERED, SEEN_WITHIN_S
from tests.drill.machines import Machine
from tests.private_server import wait_for
from tests.running import Answer, Site

# From the loss of the primary until an operator, or their tool, promotes the standby.
DECISION_S = 1.0
FLAP_S = 0.5
# A round trip to the database of another city, and the share of packets that is lost.
DISTANCE_S, LOST = 0.05, 0.01
CHANGES = 20
POLL_S = 0.005
CSRF = "c" * 32
BOUNDARY = "boundary-of-a-form"
REJECTED = (409, 429, 503)
DONE, GZIP = "succeeded", b"\x1f\x8b"


# --- across machines


def see_changes(context: Context) -> Iterator[None]:
    """Change an item on one machine, and read it on the other until it has changed."""
    here, there = context.stack.sites
    token = by_token(context)
    item = f"{ITEMS}{create_item(context)}/"
    took = []
    for number in range(CHANGES):
        for headers in ({}, token):
            send(there, "GET", item, headers=headers)  # cached from now on
        body = {"name": f"seen {number}"}
        send(here, "PATCH", item, body, token)
        changed = time.monotonic()
        for headers in ({}, token):
            while (
                send(there, "GET", item, headers=headers).json()["name"] != body["name"]
            ):
                time.sleep(POLL_S)
        took.append(time.monotonic() - changed)
    context.measured["seen_s"] = max(took)
    yield


def by_token(context: Context) -> dict[str, str]:
    return {"Authorization": f"Token {context.stack.token}"}


def send(
    site: Site,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send a request, again while it is rejected. Raises RuntimeError for an error."""
    headers = dict(headers or {})
    if method == "POST":
        headers["Idempotency-Key"] = uuid4().hex

    def answered() -> Answer | None:
        answer = site.request(method, path, body, headers)
        return None if answer.status in REJECTED else answer

    answer = wait_for(answered)
    if answer.status >= 400:
        raise RuntimeError(f"{path}: {answer.status} {answer.body!r}")
    return answer


def create_item(context: Context) -> str:
    here, item = context.stack.sites[0], {"name": "across machines"}
    return str(send(here, "POST", ITEMS, item, by_token(context)).json()["id"])


def confirm_elsewhere(context: Context) -> Iterator[None]:
    """Upload a file on one machine, check it and import it on the other."""
    here, there = context.stack.sites
    code = uuid4().hex
    content = f"id,name\r\n{code},Uploaded\r\n"
    run = send_form(context, here, "/items/-/import/", content).headers["Location"]
    cookie = {"Cookie": f"sessionid={context.stack.session}"}
    if code.encode() not in send(there, "GET", run, headers=cookie).body:
        raise RuntimeError("The other machine does not show the preview.")
    send_form(context, there, run)
    found = [send(site, "GET", f"{ITEMS}{code}/").json() for site in (there, here)]
    carried_over = sum(item["name"] == "Uploaded" for item in found)
    context.measured["carried_over"] = carried_over / len(found)
    yield


def send_form(context: Context, site: Site, path: str, file: str = "") -> Answer:
    """Send the form of a page, as a browser does, with a file if one is given."""
    parts = ['name="csrfmiddlewaretoken"\r\n\r\n' + CSRF]
    if file:
        parts.append('name="file"; filename="items.csv"\r\n\r\n' + file)
    lines = (f"--{BOUNDARY}\r\nContent-Disposition: form-data; {p}\r\n" for p in parts)
    cookie = f"sessionid={context.stack.session}; csrftoken={CSRF}"
    headers = {
        "Cookie": cookie,
        "Origin": f"http://{site.host}:{site.port}",
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    body = "".join(lines) + f"--{BOUNDARY}--\r\n"
    return send(site, "POST", path, body.encode(), headers)


def read_files_elsewhere(context: Context) -> Iterator[None]:
    """Submit a job on one machine, and read its file on the other."""
    here, there = context.stack.sites
    token = by_token(context)
    task = {"task": "export_items", "params": {"format": "csv"}}
    path = f"{JOBS}{send(here, 'POST', JOBS, task, token).json()['id']}/"
    wait_for(lambda: send(there, "GET", path, headers=token).json()["state"] == DONE)
    file = send(there, "GET", f"{path}files/items.csv.gz", headers=token)
    context.measured["carried_over"] = float(file.body.startswith(GZIP))
    yield


# --- links


def cut(
    ends: Callable[[Context], list[tuple[Machine, Machine]]], context: Context
) -> Iterator[None]:
    """Lose what these machines send each other, without a word."""
    for pair in ends(context):
        context.stack.network.part(*pair)
    try:
        yield
    finally:
        for pair in ends(context):
            context.stack.network.join(*pair)


def databases_of(web: str, context: Context) -> list[tuple[Machine, Machine]]:
    machine = context.stack.machine
    return [(machine(web), machine(f"postgres-{n}")) for n in (1, 2)]


def between(one: str, other: str) -> Callable[[Context], list[tuple[Machine, Machine]]]:
    return lambda context: [(context.stack.machine(one), context.stack.machine(other))]


def cut_redis_off(context: Context) -> Iterator[None]:
    """Cut Redis off from a web machine: changes are seen there as entries expire."""
    context.clients.history.seen_within_s = FRESH_S
    yield from cut(between("web-1", "redis"), context)
    here, there = context.stack.sites
    item = f"{ITEMS}{create_item(context)}/"

    def is_seen_at_once() -> bool:
        body, token = {"name": uuid4().hex}, by_token(context)
        here.get(item, **token)
        there.request("PATCH", item, body, token)
        time.sleep(SEEN_WITHIN_S / 2)
        answer = here.get(item, **token)
        return answer.status == 200 and bool(answer.json()["name"] == body["name"])

    context.is_recovered = is_seen_at_once


def see_at_once(context: Context) -> None:
    context.clients.history.seen_within_s = SEEN_WITHIN_S


def silence(which: Callable[[Context], Machine], context: Context) -> Iterator[None]:
    """Lose all that a machine sends and is sent; a job is done after that."""
    machine = which(context)
    machine.silence()
    yield
    context.is_recovered = job_of(context)
    machine.repair()


def slow_down(context: Context) -> Iterator[None]:
    primary(context).slow_down(DISTANCE_S / 2, LOST)
    yield
    primary(context).repair()


def cut_broker_off(context: Context) -> Iterator[None]:
    received = context.stack.events.bodies
    machine = context.stack.machine("rabbitmq")
    machine.silence()
    yield
    number = len(received)
    context.is_recovered = lambda: len(received) > number
    machine.repair()


def flap(context: Context) -> Iterator[None]:
    """Unplug and plug in the cable of a web machine, again and again."""
    machine, began = context.stack.machine("web-1"), time.monotonic()
    is_in = True

    def change() -> None:
        nonlocal is_in
        has_to_be_in = int((time.monotonic() - began) / FLAP_S) % 2 == 1
        if has_to_be_in != is_in:
            machine.plug_in() if has_to_be_in else machine.unplug()
            is_in = has_to_be_in

    context.sustain = change
    yield
    machine.plug_in()


# --- lost machines


def promote(context: Context) -> Iterator[None]:
    """Lose the primary without a word, and promote the standby a moment later."""
    database, clients = context.stack.database, context.clients
    lost_at = time.monotonic()
    database.primary.machine.silence()
    time.sleep(DECISION_S)
    database.promote()
    promoted_at = time.monotonic()
    context.measured["promoted_s"] = promoted_at - lost_at
    has_done_a_job, received = job_of(context), context.stack.events.bodies
    number = len(received)

    def is_recovered() -> bool:
        written = [
            one.ended
            for one in clients.since(promoted_at)
            if one.kind == "write" and one.outcome in IS_ANSWERED
        ]
        if not written:
            return False
        context.measured.setdefault("writers_back_s", min(written) - promoted_at)
        return has_done_a_job() and len(received) > number

    context.is_recovered = is_recovered
    yield


def lose_web(context: Context) -> Iterator[None]:
    stack = context.stack
    site = stack.sites[0]
    machine = stack.machine_of(site)
    machine.unplug()
    site.kill()
    yield
    machine.plug_in()
    stack.start_web(site)


def lose_worker(context: Context) -> Iterator[None]:
    """Lose the machine that runs a job, which the other one takes over."""
    stack, here = context.stack, context.stack.sites[0]
    gate = Path(stack.folder / "gate")
    gate.unlink(missing_ok=True)
    task = {"task": "nap", "params": {"seconds": 60, "gate": str(gate)}}
    job_id = send(here, "POST", JOBS, task, by_token(context)).json()["id"]
    name = wait_for(partial(worker_of, context, job_id))
    stack.lost_worker = name
    lost_at = time.monotonic()
    stack.machine(name).unplug()
    for command in stack.workers[name]:
        command.kill()

    def is_recovered() -> bool:
        job = here.get(f"{JOBS}{job_id}/", **by_token(context)).json()
        if job.get("attempts", 0) > 1 and "taken_over_s" not in context.measured:
            context.measured["taken_over_s"] = time.monotonic() - lost_at
            gate.touch()
        return bool(job.get("state") == DONE)

    context.is_recovered = is_recovered
    yield


def worker_of(context: Context, job_id: str) -> str:
    """Return the machine that runs a job; "" if none does."""
    url = context.stack.database.primary.server.url()
    with psycopg.connect(url) as server:
        query = "SELECT worker FROM compute_job WHERE id = %s AND state = 'running'"
        row = server.execute(query, [job_id]).fetchone()
    for name, commands in context.stack.workers.items():
        if row and f":{commands[0].process.pid}:" in row[0]:
            return str(name)
    return ""


def bring_worker_back(context: Context) -> None:
    name = context.stack.lost_worker
    context.stack.machine(name).plug_in()
    context.stack.start_worker(name)


def primary(context: Context) -> Machine:
    return context.stack.database.primary.machine


MACHINE_FAULTS = (
    Fault(
        "changes-elsewhere", "A change is read on another machine", 0.01,
        see_changes, is_quick=True,
    ),
    Fault(
        "import-elsewhere", "An upload is confirmed on another machine", 0.01,
        confirm_elsewhere,
    ),
    Fault(
        "files-elsewhere", "The file of a job is read on another machine", 0.01,
        read_files_elsewhere,
    ),
    Fault(
        "web-without-database", "A web machine is cut off from PostgreSQL", 6,
        partial(cut, partial(databases_of, "web-1")), DATABASE, is_quick=True,
    ),
    Fault(
        "web-without-redis", "A web machine is cut off from Redis", FRESH_S + 2,
        cut_redis_off, CACHE, clean_up=see_at_once,
    ),
    Fault(
        "web-without-nginx", "A web machine is cut off from nginx", 8,
        partial(cut, between("web-1", "nginx")),
    ),
    Fault("web-lost", "A web machine is lost", 6, lose_web, is_quick=True),
    Fault("web-flapping", "The link of a web machine flaps", 6, flap),
    Fault(
        "worker-lost", "A worker machine is lost in the middle of a job", 0,
        lose_worker, clean_up=bring_worker_back,
    ),
    Fault(
        "broker-cut-off", "RabbitMQ is cut off", 6, cut_broker_off, BROKER, "a broker",
    ),
    Fault(
        "primary-cut-off", "PostgreSQL is cut off from all", 6,
        partial(silence, primary), DATABASE,
    ),
    Fault(
        "database-slow",
        f"The link of PostgreSQL takes {DISTANCE_S * 1000:.0f} ms and loses {LOST:.0%}",
        6, slow_down,
    ),
    Fault(
        "standby-promoted", "The primary is lost, and the standby promoted", 0,
        promote, DATABASE, clean_up=lambda c: c.stack.database.rejoin(), is_quick=True,
    ),
)  # fmt: skip
