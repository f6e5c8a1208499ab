"""Two machines have the database and Redis in common, and nothing on their disks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart

from tests.private_server import wait_for
from tests.running import Answer, Site
from tests.servers import Postgres, Redis
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.timeout(400)]

CSRF = "c" * 32
ROWS = b"id,name\n%(id)s,One\nbad id,Two\n"


@dataclass
class Machines:
    """Jobs run on the second one alone."""

    here: Site
    there: Site
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
        redis = closing.enter_context(contextmanager(running)(Redis))
        first, token, session = Site.on_postgres(
            postgres.url(), folder / "first", REDIS_URL=redis.url()
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
        yield Machines(*sites, token, session)


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
    return job if job["state"] not in ("queued", "running") else None


def test_folder_of_a_machine_that_is_lost_is_made_anew(machines):
    """All that lies in it is a copy, or is about this machine alone."""
    there = machines.there
    found = {path.name.partition("-")[0] for path in folder_of(there).iterdir()}
    assert found <= {"epoch", "imports", "invalidations", "stale", "supervisord.pid"}
    there.stop()
    folder_of(there).rename(folder_of(there).with_name("lost"))
    there.start()
    page = machines.request(there, "GET", "/account/tokens/")
    assert page.status == 200  # still signed in


def folder_of(site: Site) -> Path:
    return Path(site.env["DATA_DIR"])
