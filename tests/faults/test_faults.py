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
        patched.setattr(history, "SEEN_WITHIN_S", 1 + BUSY_S)
        patched.setattr(runner, "WARM_UP_S", 1)
        status = command.main()
    report = orjson.loads((folder / "report.json").read_bytes())
    assert status == (0 if report["passed"] else 1)
    return report


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
    assert writes.get("ok", 0) + writes.get("failed", 0) <= clients.WRITERS


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
    assert min(checked["confirmed writes"], checked["confirmed jobs"]) > 20
    assert run["missing"] == ["no RabbitMQ on this machine"]


# --- a change on one machine is shown on another in time, also without pub/sub

ITEMS = "/api/v1/items/"
# Below the ten seconds that it takes without pub/sub.
RECEIVED_S = FRESH_S - 2
# As behind a balancer: the name is that of the site, not of the machine.
HOST = {"Host": "127.0.0.1"}
CSRF = "c" * 32
# Makes users with a token each; with each line it revokes the credentials of two.
PEOPLE = """
import sys
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
people = [User.objects.create_user(f"person-{n}") for n in range(4)]
for person in people:
    call_command("create_token", person.username)
sys.stdout.flush()
while people and sys.stdin.readline():
    connection.close()  # the server may have been restarted
    people.pop(0).auth_token_set.all().delete()
    person = people.pop(0)
    person.is_active = False
    person.save()
"""


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
    wait_for(lambda: get(there.site, path).status == 404, RECEIVED_S)
    wait_for(lambda: not is_shown(there.site, search, item), RECEIVED_S)
    (deletion, *_) = get(stack.sites[0], f"{path}/history").json()["results"]
    undo = f"/items/{item}/undo/{deletion['id']}/"
    cookie = f"sessionid={stack.session}; csrftoken={CSRF}"
    form = HOST | {"Cookie": cookie, "X-CSRFToken": CSRF}
    assert stack.sites[0].request("POST", undo, headers=form).status == 302
    wait_for(lambda: get(there.site, path).status == 200, RECEIVED_S)
    wait_for(lambda: is_shown(there.site, search, item), RECEIVED_S)


def test_revoked_credentials_are_rejected_there_in_time(stack, there, people):
    tokens = [people.stdout.readline().strip() for _ in range(2)]
    assert [is_known(there.site, token) for token in tokens] == [True, True]
    revoke(people)
    wait_for(lambda: not any(is_known(there.site, one) for one in tokens), RECEIVED_S)


def test_machine_without_redis_shows_changes_when_what_it_has_expires(
    stack, there, people
):
    hot, cold, last = (new_item(stack) for _ in range(3))
    tokens = [people.stdout.readline().strip() for _ in range(2)]
    assert [is_known(there.site, token) for token in tokens] == [True, True]
    cache(there.site, ITEMS + hot, ITEMS + cold)
    there.to_redis.hold()
    try:
        began = time.monotonic()
        rename(stack, hot)
        rename(stack, cold)
        revoke(people)
        wait_for(lambda: is_renamed(there.site, hot))
        wait_for(lambda: not any(is_known(there.site, one) for one in tokens))
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


def is_known(site: Site, token: str) -> bool:
    """Return whether the token is valid: it may not write (403, not 401)."""
    return site.request("POST", ITEMS, {}, by(token) | HOST).status == 403


def revoke(people: subprocess.Popen[str]) -> None:
    people.stdin.write("\n")
    people.stdin.flush()
