"""The site on servers of its own, under a load that checks every answer."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from tests.running import Answer, Site
from tests.servers import Postgres, Redis

READ = 30
SECRET_KEY = "faults-" * 10


@dataclass
class Stack:
    """A running site with two web processes, and what it stands on."""

    site: Site
    postgres: Postgres
    redis: Redis
    token: str

    @property
    def signed_in(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.token}"}

    def create(self, name: str, **headers: str) -> Answer:
        return self.site.request(
            "POST", "/api/v1/items/", {"name": name}, self.signed_in | headers
        )


@pytest.fixture
def stack(tmp_path, postgres_own, redis_own) -> Iterator[Stack]:
    site = Site(
        tmp_path / "site",
        DATABASE_URL=postgres_own.url(),
        REDIS_URL=redis_own.url(),
        SECRET_KEY=SECRET_KEY,
        HTTPS="0",
        ALLOWED_HOSTS="127.0.0.1",
        WEB_PROCESSES="2",
    )
    (tmp_path / "site").mkdir()
    for command in (["migrate"], ["load_sample"], ["shell", "-c", MAKE_EDITOR]):
        done = site.manage(*command)
        assert done.returncode == 0, done.stderr
    token = site.manage("create_token", "edith").stdout.strip()
    site.start("--no-compute")
    yield Stack(site, postgres_own, redis_own, token)
    site.stop()
    print(site.output())  # shown when the test has failed


MAKE_EDITOR = """
from django.contrib.auth.models import Group, User
from items.apps import EDITORS
User.objects.create_user("edith").groups.add(Group.objects.get(name=EDITORS))
"""


@dataclass
class Load:
    """Readers and writers who remember what they were told."""

    stack: Stack
    reads: list[tuple[float, float, int, str]] = field(default_factory=list)
    writes: list[tuple[float, float, int]] = field(default_factory=list)
    acknowledged: dict[str, tuple[int, str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        found = self.stack.site.get(f"/api/v1/items?page_size={READ}").json()
        self.items = [item["id"] for item in found["results"]]
        self.names = {item["id"]: item["name"] for item in found["results"]}

    def start(self, readers: int = 2, writers: int = 1) -> Load:
        jobs = [(self._read, {})] * readers
        jobs += [(self._read, self.stack.signed_in)] * readers
        jobs += [(self._write, n) for n in range(writers)]  # type: ignore[misc]
        for job, about in jobs:
            thread = threading.Thread(target=job, args=(about,))
            thread.start()
            self._threads.append(thread)
        return self

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)

    def _read(self, headers: dict[str, str]) -> None:
        connection = self._connection()
        for n in count():
            if self._ending.wait(0.01):
                connection.close()
                return
            item = self.items[n % READ]
            began = time.monotonic()
            try:
                connection.request("GET", f"/api/v1/items/{item}", headers=headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.reads.append((began, time.monotonic(), 0, repr(error)))
                connection.close()
                connection = self._connection()
                continue
            status, how = response.status, response.getheader("Cache-Status", "")
            self.reads.append((began, time.monotonic(), status, how))
            if status == 200 and self.names[item].encode() not in body:
                self.wrong.append(f"{item}: {body[:100]!r}")

    def _write(self, number: int) -> None:
        """Give one item ever new descriptions, and look whether each is there."""
        path, version = f"/api/v1/items/writer.{number}", 0
        headers = self.stack.signed_in | {"Content-Type": "application/json"}
        site = self.stack.site
        for n in count():
            if self._ending.wait(0.02):
                return
            text = f"{n} {uuid4()}"
            body: Any = {"name": "Written", "description": text}
            method, where = ("PUT", path) if version else ("POST", "/api/v1/items/")
            if not version:
                body["id"] = path.rpartition("/")[2]
            key = {"Idempotency-Key": str(uuid4())}
            began = time.monotonic()
            answer = site.request(method, where, body, headers | key)
            self.writes.append((began, time.monotonic(), answer.status))
            if answer.status in (200, 201):
                version = answer.json()["version"]
                self.acknowledged[path] = version, text
                seen = site.get(path, **self.stack.signed_in)
                is_new = "origin-failed" not in seen.headers.get("Cache-Status", "")
                if seen.status == 200 and is_new and text.encode() not in seen.body:
                    self.wrong.append(f"not seen by its writer: {text}")

    def _connection(self) -> http.client.HTTPConnection:
        site = self.stack.site
        return http.client.HTTPConnection(site.host, site.port, timeout=20)

    # What was seen between two moments.

    def reads_between(self, begin: float, end: float) -> list[tuple[float, int, str]]:
        return [
            (done - began, status, how)
            for began, done, status, how in self.reads
            if begin <= began <= end
        ]

    def writes_between(self, begin: float, end: float) -> list[tuple[float, int]]:
        return [
            (done - began, status)
            for began, done, status in self.writes
            if begin <= began <= end
        ]


@pytest.fixture
def load(stack: Stack) -> Iterator[Load]:
    load = Load(stack)
    yield load
    load.end()
