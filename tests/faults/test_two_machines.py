"""Two machines have the database and Redis in common, and nothing on their disks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart

from resilient_site.resilience.cache_control import FRESH_S
from tests.private_server import wait_for
from tests.running import Answer, Site
from tests.servers import Postgres, Redis, Sentinel
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.timeout(400)]

# Below the ten seconds that it takes without pub/sub.
RECEIVED_S = FRESH_S - 2
CSRF = "c" * 32
ROWS = b"id,name\n%(id)s,One\nbad id,Two\n"


class Service:
    """A primary of Redis, its replica, and three Sentinels, of which one may die."""

    def __init__(self, closing: ExitStack) -> None:
        first = closing.enter_context(contextmanager(running)(Redis))
        self.servers = [first, Redis(first)]
        self.sentinels = [Sentinel(first, 2) for _ in range(3)]
        for server in (self.servers[1], *self.sentinels):
            closing.callback(server.close)
            server.start()
        wait_for(self.is_complete)

    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"sentinel://{hosts}/main/0"

    def state(self, sentinel: Sentinel) -> dict[str, Any]:
        with redis.Redis(port=sentinel.port) as client:
            return client.sentinel_masters()["main"]

    def is_complete(self) -> bool:
        """Return whether each Sentinel can replace the primary by the replica."""
        replicas = []
        for sentinel in self.sentinels:
            with redis.Redis(port=sentinel.port) as client:
                replicas += client.sentinel_slaves("main")
        known = [self.state(sentinel) for sentinel in self.sentinels]
        return (
            len(replicas) == len(known)
            and all(one["master-link-status"] == "ok" for one in replicas)
            and all(one["num-other-sentinels"] == len(known) - 1 for one in known)
        )

    def primary(self) -> Redis:
        port = self.state(self.sentinels[-1])["port"]
        return next(server for server in self.servers if server.port == port)


@dataclass
class Machines:
    """Jobs run on the second one alone."""

    here: Site
    there: Site
    redis: Service
    token: str
    session: str

    def request(self, site: Site, method: str, path: str, **form: Any) -> Answer:
        """Send a request of a person, to pages by the session, else by the token."""
        headers = {"Cookie": f"sessionid={self.session}; csrftoken={CSRF}"}
        headers["X-CSRFToken"] = CSRF
        if path.startswith("/api/"):
            headers = {"Authorization": f"Token {self.token}"}
        headers["Content-Type"] = MULTIPART_CONTENT
        body = encode_multipart(BOUNDARY, form) if form else None
        return site.request(method, path, body, headers)


@pytest.fixture(scope="module")
def machines(tmp_path_factory) -> Iterator[Machines]:
    """Both begin with no folder of data at all."""
    folder = tmp_path_factory.mktemp("machines")
    with ExitStack() as closing:
        postgres = closing.enter_context(contextmanager(running)(Postgres))
        redis = Service(closing)
        first, token, session = Site.on_postgres(
            postgres.url(),
            folder / "first",
            REDIS_URL=redis.url(),
            HEARTBEAT_TIMEOUT_S="3",  # a busy machine has not failed
        )
        sites = [
            Site(folder / name, **first.env | {"DATA_DIR": str(folder / name)})
            for name in ("here", "there")
        ]
        for site, options in zip(sites, (["--no-compute"], []), strict=True):
            site.env["PORT"] = str(site.port)
            del site.env["PROMETHEUS_MULTIPROC_DIR"]
            site.output_path = folder / f"output-{site.port}"
            closing.callback(site.stop)
            site.start(*options)
        yield Machines(*sites, redis, token, session)


def file_of(item_id: str) -> SimpleUploadedFile:
    return SimpleUploadedFile("items.csv", ROWS % {b"id": item_id.encode()})


def has_item(machines: Machines, site: Site, item_id: str) -> bool:
    answer = machines.request(site, "GET", f"/api/v1/items/{item_id}")
    return answer.status == 200


def test_page_imports_there_what_was_uploaded_here(machines):
    here, there = machines.here, machines.there
    file = file_of("by.page")
    uploaded = machines.request(here, "POST", "/items/-/import/", file=file)
    assert uploaded.status == 302, uploaded.body
    location = uploaded.headers["Location"]
    assert not has_item(machines, here, "by.page")
    preview = machines.request(there, "GET", f"{location}?show=rejected")
    assert b"bad id" in preview.body
    assert machines.request(there, "POST", location).status == 302
    # What was answered here with 404 is answered anew, once the change is known here.
    wait_for(lambda: has_item(machines, here, "by.page"))
    assert b"The import has finished" in machines.request(here, "GET", location).body
    rejects = machines.request(here, "GET", f"{location}rejects/").body
    assert b"bad id,Two" in rejects


def test_job_there_has_the_file_of_a_request_here(machines):
    here, there = machines.here, machines.there
    for dry_run in ("true", "false"):
        submitted = machines.request(
            here, "POST", "/api/v1/jobs/",
            task="import_items", dry_run=dry_run, file=file_of("by.rest"),
        )  # fmt: skip
        assert submitted.status == 202, submitted.body
        job = wait_for(lambda at=submitted: finished(machines, at.headers["Location"]))
        assert (job["state"], job["result"]["created"]) == ("succeeded", 1)
        for site in (here, there):
            url = job["files"][-1]["url"].partition("/api/")[2]
            assert b"bad id" in machines.request(site, "GET", f"/api/{url}").body
        if dry_run == "true":
            assert not has_item(machines, here, "by.rest")
    wait_for(lambda: has_item(machines, here, "by.rest"))


def finished(machines: Machines, location: str) -> Any:
    job = machines.request(machines.here, "GET", location).json()
    is_going_on = job.get("state", "queued") in ("queued", "running")
    return None if is_going_on else job


def test_folder_of_a_machine_that_is_lost_is_made_anew(machines):
    """All that lies in it is a copy, or is about this machine alone."""
    there = machines.there
    found = {path.name.partition("-")[0] for path in folder_of(there).iterdir()}
    assert found <= {"epoch", "imports", "invalidations", "stale"}
    there.stop()
    folder_of(there).rename(folder_of(there).with_name("lost"))
    there.start()
    page = machines.request(there, "GET", "/account/tokens/")
    assert page.status == 200  # still signed in


def test_failover_of_redis_heals_by_itself(machines):
    here, there, service = machines.here, machines.there, machines.redis
    wait_for(lambda: here.is_whole() and there.is_whole())
    item = "failover"
    write(machines, "POST", id=item, name="Before")
    for site in (here, there):
        wait_for(lambda site=site: name_of(site, item) == "Before")
    failed, sentinel = service.primary(), service.sentinels[0]
    sentinel.kill()
    failed.kill()
    try:
        while service.primary() is failed:  # each read meanwhile is answered
            assert {name_of(site, item) for site in (here, there)} == {"Before"}
            assert machines.request(here, "GET", "/account/tokens/").status == 200
        wait_for(lambda: here.is_whole() and there.is_whole())
        write(machines, "PATCH", item, name="After")
        wait_for(lambda: name_of(there, item) == "After", RECEIVED_S)
        wait_for(lambda: is_counted_together(machines))
        assert machines.request(there, "GET", "/account/tokens/").status == 200
    finally:
        sentinel.start()
        failed.start()  # as a primary, until a Sentinel makes it a replica
    write(machines, "PATCH", item, name="Last")
    wait_for(lambda: name_of(there, item) == "Last", RECEIVED_S)
    wait_for(lambda: here.is_whole() and there.is_whole())


def write(machines: Machines, method: str, item: str = "", **body: str) -> None:
    headers = {"Authorization": f"Token {machines.token}"}
    path = f"/api/v1/items/{item}"
    answer = machines.here.request(method, path, body, headers)
    assert answer.status in (200, 201), answer.body


def name_of(site: Site, item: str) -> str:
    """Return the name that anyone is shown, of the cache if it is there."""
    answer = site.get(f"/api/v1/items/{item}")
    assert answer.status == 200, answer.body
    return answer.json()["name"]


def is_counted_together(machines: Machines) -> bool:
    """Return whether requests to one machine count on the other one, too."""
    sites = machines.here, machines.there, machines.here
    answers = [
        machines.request(site, "GET", "/api/v1/items/country/history") for site in sites
    ]
    limits = [answer.headers["RateLimit"] for answer in answers]
    if not all(limits):
        return False
    left = [int(limit.partition("r=")[2].split(";")[0]) for limit in limits]
    return left == [left[0], left[0] - 1, left[0] - 2]


def folder_of(site: Site) -> Path:
    return Path(site.env["DATA_DIR"])
