"""Readers and writers that compare every response with earlier ones."""

import http.client
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, Self
from uuid import uuid4

from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import Answer, Site
from tests.servers import Postgres, Redis

READ = 30


@dataclass
class Stack:
    """A running site with two web processes, and its servers."""

    site: Site
    postgres: Postgres
    redis: Redis
    to_postgres: Proxy
    to_redis: Proxy
    token: str

    @property
    def signed_in(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.token}"}

    def create(self, name: str, **headers: str) -> Answer:
        return self.site.request(
            "POST", "/api/v1/items/", {"name": name}, self.signed_in | headers
        )


class Sample(NamedTuple):
    began: float
    took_s: float
    status: int  # 0: no response
    how: str  # Cache-Status, or the error


# Reads and writes.
type Both = tuple[list[Sample], list[Sample]]


class Load:
    """Requests without a pause, from `start` to `end`."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.reads: list[Sample] = []
        self.writes: list[Sample] = []
        # Acknowledged and sent texts of items, and responses that are wrong.
        self.acknowledged: dict[str, str] = {}
        self.sent: dict[str, str] = {}
        self.wrong: list[str] = []
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        found = stack.site.get(f"/api/v1/items?page_size={READ}").json()["results"]
        # What each path must contain. Each write invalidates the lists.
        self.pages = {"/api/v1/items?page_size=5": b'"results"', "/items/": b"<h1"}
        for item in found:
            if not item["id"].startswith("load."):
                path = f"/api/v1/items/{item['id']}"
                self.pages[path] = item["name"].encode()

    def start(self, readers: int = 2, writers: int = 1) -> Self:
        for _ in range(readers):
            self._begin(self._read, {})
            self._begin(self._read, self.stack.signed_in)
        for _ in range(writers):
            self._begin(self._write, f"load.{uuid4()}")
        # By then each client has read everything, in both web processes.
        wait_for(lambda: len(self.reads) > 600 and len(self.writes) > 10, 90)
        return self

    def go_on(self, seconds: float) -> None:
        self._ending.wait(seconds)

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)

    def between(self, begin: float, end: float = math.inf) -> Both:
        """Return the finished requests that began between two moments."""
        reads, writes = (
            [one for one in tuple(seen) if begin <= one.began <= end]
            for seen in (self.reads, self.writes)
        )
        return reads, writes

    def assert_nothing_is_lost(self) -> None:
        assert not self.wrong
        for path, text in self.acknowledged.items():
            item = self.stack.site.get(path, **self.stack.signed_in).json()
            # An unacknowledged write may have been carried out or not.
            assert item["description"] in (text, self.sent[path])

    def _begin(self, job: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=job, args=args)
        thread.start()
        self._threads.append(thread)

    def _read(self, headers: dict[str, str]) -> None:
        connection = self._connection()
        paths = list(self.pages)
        for n in count():
            if self._ending.wait(0.01):
                connection.close()
                return
            path = paths[n % len(paths)]
            began = time.monotonic()
            try:
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                body = response.read()
                status, how = response.status, response.getheader("Cache-Status", "")
            except (OSError, http.client.HTTPException) as error:
                status, how, body = 0, repr(error), b""
                connection.close()
            self.reads.append(Sample(began, time.monotonic() - began, status, how))
            if status == 200 and self.pages[path] not in body:
                self.wrong.append(f"{path}: {body[:100]!r}")

    def _write(self, item: str) -> None:
        """Change one item over and over, and read each change.

        A write that failed is sent again with its Idempotency-Key.
        """
        path, method = "/api/v1/items/", "POST"
        text = key = ""
        while not self._ending.wait(0.02):
            if not key:
                text, key = str(uuid4()), str(uuid4())
            self.sent[f"/api/v1/items/{item}"] = text
            body = {"id": item, "name": "Written", "description": text}
            headers = self.stack.signed_in | {"Idempotency-Key": key}
            began = time.monotonic()
            try:
                answer = self.stack.site.request(method, path, body, headers)
                status, how = answer.status, ""
            except (OSError, http.client.HTTPException) as error:
                status, how = 0, repr(error)
            self.writes.append(Sample(began, time.monotonic() - began, status, how))
            if status in (200, 201):
                path, method, key = f"/api/v1/items/{item}", "PUT", ""
                self.acknowledged[path] = text
                self._check(path, text)

    def _check(self, path: str, text: str) -> None:
        """An acknowledged change is seen at once, except in a stale response."""
        try:
            seen = self.stack.site.get(path, **self.stack.signed_in)
        except (OSError, http.client.HTTPException):
            return
        is_stale = "origin-failed" in seen.headers.get("Cache-Status", "")
        if seen.status == 200 and not is_stale and text.encode() not in seen.body:
            self.wrong.append(f"not seen by its writer: {text}")

    def _connection(self) -> http.client.HTTPConnection:
        site = self.stack.site
        return http.client.HTTPConnection(site.host, site.port, timeout=20)
