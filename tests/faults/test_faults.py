"""What a site stands on fails: what clients get, on one machine and on another.

All in one file, as the tests share a site.
"""

import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
import pytest
import redis

from resilient_site.resilience.cache_control import FRESH_S
from tests.drill import clients, command, history, runner
from tests.drill import stack as stack_module
from tests.drill.stack import Stack
from tests.faults.proxy import Proxy
from tests.private_server import BUSY_S, wait_for
from tests.running import ROOT, Answer, Site

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

# --- the drill, with some of its faults

REDIS = ["redis-killed", "redis-stopped", "redis-slow"]
POSTGRES = ["postgres-killed", "postgres-stopped", "both-stopped"]
FAULTS = [*REDIS, *POSTGRES, "postgres-restarted", "web-killed"]


@pytest.fixture(scope="module")
def report(stack, tmp_path_factory) -> dict[str, Any]:
    """Report of a drill."""
    wait_until_ready(*stack.sites)  # another test may have broken something
    folder = tmp_path_factory.mktemp("drill")
    options = ["--quick", f"--output={folder}", *(f"--fault={name}" for name in FAULTS)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["drill", *options])
        patched.setattr(command, "Stack", lambda without: stack)
        patched.setattr(stack, "running", nullcontext)
        # What a busy machine can do, in a short time.
        patched.setattr(clients, "READS_PER_S", 20)
        patched.setattr(clients, "TIMEOUT_S", 60)
        patched.setattr(clients, "KEPT_AFTER_S", 1 + BUSY_S)
        patched.setattr(history, "SEEN_WITHIN_S", 1 + BUSY_S)
        patched.setattr(runner, "WARM_UP_S", 1)
        patched.setattr(runner, "RECOVERY_MAX_S", 120)
        patched.setattr(runner, "SHOWN_MAX_S", 90)
        patched.setattr(runner.FaultRunner, "run", run_until_enough)
        patched.setattr(stack_module, "JOBS_END_S", 150)
        status = command.main()
    report = orjson.loads((folder / "report.json").read_bytes())
    assert status == (0 if report["passed"] else 1)
    return report


ENOUGH = 20
run_faults = runner.FaultRunner.run


def run_until_enough(self: runner.FaultRunner, faults: Any) -> list[runner.Result]:
    """Go on until enough has been confirmed for the check to tell something."""
    results, clients = run_faults(self, faults), self.clients

    def confirmed() -> int:
        items = list(clients.history.written.values())
        written = [len(one.confirmed) for one in items]
        return min(sum(written), len(clients.submitted))

    wait_for(lambda: confirmed() > ENOUGH)
    return results


def outcomes(report: dict[str, Any], fault: str) -> tuple[dict[str, int], ...]:
    """Return how often each outcome of reads and of writes occurred."""
    (result,) = [one for one in report["runs"][0]["results"] if one["name"] == fault]
    found = result["during"]["outcomes"]
    return tuple(
        {name.partition(": ")[2]: n for name, n in found.items() if name.startswith(of)}
        for of in ("read", "write")
    )


@pytest.mark.parametrize("fault", REDIS)
def test_redis_outage_changes_no_response(report, fault):
    reads, writes = outcomes(report, fault)
    assert (reads.keys(), writes.keys()) == ({"ok"}, {"ok"})


@pytest.mark.parametrize("fault", POSTGRES)
def test_database_outage_serves_stale_responses(report, fault):
    reads, writes = outcomes(report, fault)
    assert reads["stale, marked"]
    assert reads.keys() <= {"ok", "stale, marked", "rejected, never read before"}
    assert writes["rejected"]
    # Those in flight as the fault began; of a hung commit the outcome is unknown.
    assert writes.keys() <= {"ok", "failed", "rejected"}
    assert writes.get("failed", 0) <= clients.WRITERS


def test_restart_of_the_database_fails_no_read(report):
    reads, _ = outcomes(report, "postgres-restarted")
    assert reads.keys() <= {"ok", "stale, marked", "rejected, never read before"}


def test_killed_web_process_fails_only_its_writes_in_flight(report):
    reads, writes = outcomes(report, "web-killed")
    assert reads.keys() <= {"ok"}
    assert writes.keys() <= {"ok", "failed"}
    assert writes.get("failed", 0) <= clients.WRITERS


def test_site_recovers_from_each_fault(report):
    results = report["runs"][0]["results"]
    assert [one["name"] for one in results if one["not_run"]] == []
    assert [one["name"] for one in results if one["recovered_s"] is None] == []


def test_drill_finds_nothing_lost_or_wrong(report):
    (run,) = report["runs"]
    checked = run["found"].pop("checked")
    assert not any(run["found"].values()), run["found"]
    assert min(checked["confirmed writes"], checked["confirmed jobs"]) > ENOUGH
    assert run["missing"] == ["no RabbitMQ on this machine"]


# --- a change on one machine is shown on another in time, also without pub/sub

ITEMS = "/api/v1/items/"
# Below the ten seconds that it takes without pub/sub.
RECEIVED_S = FRESH_S - 2
# As behind a balancer: the name is that of the site, not of the machine.
HOST = {"Host": "127.0.0.1"}
CSRF = "c" * 32
# Answers each line, which is an expression.
PEOPLE = """
import sys
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from resilient_site.models import ApiToken

def make(name):
    user = User.objects.create_user(name)
    user.groups.add(Group.objects.get(name="Editors"))
    client = Client()
    client.force_login(user)
    tokens = [ApiToken.objects.create(user)[1] for _ in range(2)]
    return *tokens, client.session.session_key

def get(name):
    return User.objects.get(username=name)

def deactivate(user):
    user.is_active = False
    user.save()
    return ()

while line := sys.stdin.readline():
    connection.close()  # the server may have been restarted
    print(*eval(line), flush=True)
"""
LOSSES = {
    "token": "get('token').auth_token_set.all().delete()",
    "account": "deactivate(get('account'))",
    "group": "get('group').groups.clear() or ()",
    "update": "[User.objects.filter(username='update').update(is_active=False)]",
}


@dataclass
class Machine:
    """Another one, with its own way to Redis, started while the database hung."""

    site: Site
    to_redis: Proxy
    item: str
    # What it showed of this item meanwhile, by path, from the stack's responses.
    first: dict[str, Answer]
    status_of_others: int

    def is_connected(self, stack: Stack) -> None:
        """Wait until it is ready, and invalidations arrive."""
        wait_until_ready(stack.sites[0], self.site)
        item = new_item(stack)
        cache(self.site, ITEMS + item)
        rename(stack, item)
        wait_for(lambda: is_renamed(self.site, item))


@pytest.fixture(scope="module")
def machine(stack, tmp_path_factory) -> Iterator[Machine]:
    item, other = new_item(stack), new_item(stack)
    paths = [ITEMS + item, f"/items/{item}/", f"{ITEMS}?search={item}"]
    shared = redis.Redis.from_url(stack.redis.url())

    def are_stored() -> bool:
        cache(stack.sites[0], *paths)  # they are written behind the answer
        values = shared.mget(["none", *shared.keys("*:response:*")])
        texts = [zlib.decompress(value) for value in values if value]
        return sum(item.encode() in text for text in texts) == len(paths)

    wait_for(are_stored)
    with closing(Proxy(stack.redis.port)) as to_redis:
        own = {"REDIS_URL": f"redis://127.0.0.1:{to_redis.port}/0"}
        site = Site(tmp_path_factory.mktemp("machine"), **stack.environment() | own)
        try:
            stack.postgres.pause()
            try:
                site.start_web()
                # On a busy machine a look-up in Redis may take longer than it may.
                first = {
                    path: wait_for(lambda p=path: found(site, p)) for path in paths
                }
                rejected = site.get(ITEMS + other, **HOST).status
            finally:
                stack.postgres.resume()
            yield Machine(site, to_redis, item, first, rejected)
        finally:
            print(site.output()[-3_000:])  # shown when the test has failed
            site.stop()


@pytest.fixture
def there(stack, machine) -> Machine:
    machine.is_connected(stack)  # also if Redis failed in the last test
    return machine


@pytest.fixture(scope="module")
def people(stack) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", PEOPLE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    env = stack.sites[0].env
    with subprocess.Popen(command, cwd=ROOT, env=env, **pipes) as process:
        yield process


def test_new_machine_sends_stale_responses_of_others(machine):
    for path, answer in machine.first.items():
        assert machine.item.encode() in answer.body
        assert "detail=origin-failed" in answer.headers["Cache-Status"], path
    assert b"This is how it was at" in machine.first[f"/items/{machine.item}/"].body
    assert machine.status_of_others == 503


def test_change_is_shown_here_at_once_and_there_in_time(stack, there):
    item = new_item(stack)
    paths = (ITEMS + item, f"/items/{item}/", f"{ITEMS}?search=machine")
    cache(there.site, *paths)
    rename(stack, item)
    for headers in ({}, by(stack.token)):
        for path in paths:
            assert is_shown(stack.sites[0], path, new_name(item), **headers)
    wait_for(
        lambda: all(is_shown(there.site, path, new_name(item)) for path in paths),
        RECEIVED_S,
    )


def test_deletion_and_its_undo_are_shown_there(stack, there):
    item = new_item(stack)
    path, search = ITEMS + item, f"{ITEMS}?search=machine"
    cache(there.site, path, search)
    write(stack, "DELETE", item)
    wait_for(lambda: get(there.site, path).status == 410, RECEIVED_S)
    wait_for(lambda: not is_shown(there.site, search, item), RECEIVED_S)
    (deletion, *_) = get(stack.sites[0], f"{path}/history").json()["results"]
    undo = f"/items/{item}/undo/{deletion['id']}/"
    cookie = f"sessionid={stack.session}; csrftoken={CSRF}"
    form = HOST | {"Cookie": cookie, "X-CSRFToken": CSRF}
    assert stack.sites[0].request("POST", undo, headers=form).status == 302
    wait_for(lambda: get(there.site, path).status == 200, RECEIVED_S)
    wait_for(lambda: is_shown(there.site, search, item), RECEIVED_S)


def test_lost_rights_end_everything_there_also_stale_pages(stack, there, people):
    names = [*LOSSES, "session", "nothing"]
    found = {name: tell(people, f"make('{name}')") for name in names}
    for person in found.values():
        assert private_pages(there.site, person) == [200, 200]
        assert may_write(there.site, person)
    with_page = private_pages(there.site, found["nothing"])
    for loss in LOSSES.values():
        tell(people, loss)
    sign_out(stack, found["session"])
    lost = [found[name] for name in LOSSES]
    announced = [found[name] for name in LOSSES if name != "update"]
    wait_for(lambda: not any(may_write(there.site, p) for p in announced), RECEIVED_S)
    wait_for(lambda: not any(may_write(there.site, p) for p in lost))
    item = new_item(stack)  # what is changed after the sign-out is published after it
    cache(there.site, ITEMS + item)
    rename(stack, item)
    wait_for(lambda: is_renamed(there.site, item))
    # They may have been forgotten since: when it did not hear others for a moment.
    wait_for(there.site.is_whole)
    assert private_pages(there.site, found["nothing"]) == with_page
    stack.postgres.pause()
    try:
        # They have asked for these pages for the last time before their loss.
        shown = {name: private_pages(there.site, found[name]) for name in names}
        there.site.stop()
        there.site.start_web()
        after_start = private_pages(there.site, found["nothing"])
        sent = send_form(stack, "name=What+was+typed")
    finally:
        stack.postgres.resume()
    assert shown.pop("nothing") == with_page == [200, 200]
    # Of the session its token is left, which is valid. That it has ended is known for
    # some seconds; after them nothing is.
    assert shown.pop("session")[1] in (302, 503)
    assert list(shown.values()) == [[503, 503]] * len(LOSSES)
    # Something may have changed while it was down.
    assert after_start == [503, 503]
    assert sent.status == 503
    assert b'name="name" value="What was typed"' in sent.body


def test_machine_without_redis_shows_changes_when_what_it_has_expires(
    stack, there, people
):
    hot, cold, last = (new_item(stack) for _ in range(3))
    losses = {f"{name}-alone": loss for name, loss in LOSSES.items()}
    lost = [tell(people, f"make('{name}')") for name in losses]
    left = tell(people, "make('left')")
    for person in (*lost, left):
        assert private_pages(there.site, person) == [200, 200]
        assert may_write(there.site, person)
    cache(there.site, ITEMS + hot, ITEMS + cold)
    there.to_redis.hold()
    try:
        began = time.monotonic()
        rename(stack, hot)
        rename(stack, cold)
        for name, loss in losses.items():
            tell(people, loss.replace(f"'{name.removesuffix('-alone')}'", f"'{name}'"))
        sign_out(stack, left)
        wait_for(lambda: is_renamed(there.site, hot))
        wait_for(lambda: not any(may_write(there.site, person) for person in lost))
        assert private_pages(there.site, left)[1] == 302
        wait_for(lambda: time.monotonic() - began > FRESH_S)
        # It was not requested since: also the first request gets the change.
        assert is_renamed(there.site, cold)
        cache(there.site, ITEMS + last)
        rename(stack, last)
    finally:
        there.to_redis.let_go()
    wait_for(lambda: is_renamed(there.site, last), RECEIVED_S)


def wait_until_ready(*sites: Site) -> None:
    for site in sites:
        wait_for(lambda site=site: site.get("/readyz", **HOST).body == b"ok\n")


def by(token: str) -> dict[str, str]:
    return {"Authorization": f"Token {token}"}


def get(site: Site, path: str, **headers: str) -> Answer:
    answer = site.get(path, **HOST, **headers)
    assert answer.status < 500, answer.body
    return answer


def found(site: Site, path: str) -> Answer | None:
    answer = site.get(path, **HOST)
    return answer if answer.status == 200 else None


def cache(site: Site, *paths: str) -> None:
    """Have these cached; an invalidation of an earlier change may arrive meanwhile."""
    wait_for(
        lambda: all("; hit" in get(site, p).headers["Cache-Status"] for p in paths)
    )


def write(stack: Stack, method: str, item: str = "", **body: str) -> None:
    """Change the catalogue on the machine here."""
    headers = by(stack.token) | HOST
    answer = stack.sites[0].request(method, ITEMS + item, body or None, headers)
    assert answer.status in (200, 201, 204), answer.body


def new_item(stack: Stack) -> str:
    item = f"machine.{uuid4()}"
    write(stack, "POST", id=item, name=f"machine {item}")
    return item


def new_name(item: str) -> str:
    return f"machine renamed {item}"


def rename(stack: Stack, item: str) -> None:
    write(stack, "PATCH", item, name=new_name(item))


def is_shown(site: Site, path: str, text: str, **headers: str) -> bool:
    return text.encode() in get(site, path, **headers).body


def is_renamed(site: Site, item: str) -> bool:
    return is_shown(site, ITEMS + item, new_name(item))


def tell(people: subprocess.Popen[str], expression: str) -> list[str]:
    people.stdin.write(expression + "\n")
    people.stdin.flush()
    return people.stdout.readline().split()


def private_pages(site: Site, person: list[str]) -> list[int]:
    """Return the status of what a person is shown by token and by session."""
    token, _, session = person
    cookie = {"Cookie": f"sessionid={session}"}
    by_token = site.get(f"{ITEMS}country.DE/history", **HOST, **by(token))
    return [by_token.status, site.get("/items/-/new/", **HOST, **cookie).status]


def may_write(site: Site, person: list[str]) -> bool:
    """Ask by the person's other token: the first one is not seen to be rejected."""
    answer = site.request("POST", ITEMS, {}, by(person[1]) | HOST)
    assert answer.status in (400, 401, 403)
    return answer.status == 400


def send_form(stack: Stack, data: str) -> Answer:
    cookie = f"sessionid={stack.session}; csrftoken={CSRF}"
    headers = HOST | {"Cookie": cookie, "Origin": "http://127.0.0.1"}
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    data += f"&csrfmiddlewaretoken={CSRF}"
    return stack.sites[0].request("POST", "/items/-/new/", data.encode(), headers)


def sign_out(stack: Stack, person: list[str]) -> None:
    cookie = f"sessionid={person[2]}; csrftoken={CSRF}"
    headers = HOST | {"Cookie": cookie, "X-CSRFToken": CSRF}
    answer = stack.sites[0].request("POST", "/account/sign-out/", headers=headers)
    assert answer.status == 302
