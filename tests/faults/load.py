"""Readers and a writer that compare every response with earlier ones."""

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, Self
from uuid import uuid4

import psycopg

from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import Site
from tests.servers import Postgres, Redis

ITEMS = "/api/v1/items/"
# How many items each reader reads.
READ = 4
# Anonymous ones, and as many authenticated ones.
READERS = 2
CLIENTS = 2 * READERS + 1
# A response that takes longer is none.
TIMEOUT_S = 30


@dataclass
class Stack:
    """A running site with two web processes, and its servers."""

    site: Site
    settings: dict[str, str]  # without the address of Redis
    postgres: Postgres
    redis: Redis
    to_postgres: Proxy
    to_redis: Proxy
    token: str
    session: str


def by(token: str) -> dict[str, str]:
    return {"Authorization": f"Token {token}"}


class Sample(NamedTuple):
    began: float
    status: int  # 0: no response
    how: str = ""  # Cache-Status, or the error


class Seen(NamedTuple):
    """Requests that are finished."""

    reads: list[Sample]
    writes: list[Sample]

    @property
    def is_enough(self) -> bool:
        """Return whether the readers have read everything twice meanwhile."""
        return len(self.reads) > 60 and len(self.writes) > 3

    @property
    def stale(self) -> list[Sample]:
        return [read for read in self.reads if "origin-failed" in read.how]

    def statuses(self) -> tuple[set[int], set[int]]:
        return {one.status for one in self.reads}, {one.status for one in self.writes}


class Load:
    """Requests of some clients, one after another, from `start` to `end`."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.reads: list[Sample] = []
        self.writes: list[Sample] = []
        # Acknowledged texts of the item that is written, and responses that are wrong.
        self.acknowledged: list[str] = []
        self.wrong: list[str] = []
        self._ending = threading.Event()
        self._warm = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        # What each path must contain. Each write invalidates the lists.
        self.pages = {"/api/v1/items?page_size=5": b'"results"', "/items/": b"<h1"}
        search = f"{ITEMS}?search=language&page_size={READ}"
        for item in wait_for(lambda: stack.site.get(search).json().get("results")):
            self.pages[ITEMS + item["id"]] = item["name"].encode()

    def start(self) -> Self:
        for headers in ({}, by(self.stack.token)) * READERS:
            self._begin(self._read, headers)
        self._begin(self._write, f"load.{uuid4()}")
        for _ in self._threads:
            assert self._warm.acquire(timeout=90)
        return self

    def since(self, began: float) -> Seen:
        return Seen(
            [one for one in tuple(self.reads) if one.began >= began],
            [one for one in tuple(self.writes) if one.began >= began],
        )

    def is_answered_again(self) -> None:
        """Wait until all is as before a fault, to the end of the load."""
        began = time.monotonic()
        wait_for(lambda: 200 in self.since(began).statuses()[1])
        wait_for(lambda: len(self.since(began).reads) > 20)
        wait_for(lambda: not Seen(self.reads[-20:], []).stale)
        began = time.monotonic()
        wait_for(lambda: self.since(began).is_enough)
        self.end()
        assert self.since(began).statuses() == ({200}, {200})

    def end(self) -> None:
        """End it; check that no response was wrong, and no write lost or repeated."""
        self._ending.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)
        assert not self.wrong
        with psycopg.connect(self.stack.postgres.url()) as connection:
            changes = connection.execute(
                "SELECT after->>'description' FROM items_itemchange WHERE item_id"
                " LIKE 'load.%'"
            ).fetchall()
        texts = [text for (text,) in changes]
        # Also one that was sent again.
        assert {texts.count(one) for one in self.acknowledged} <= {1}

    def _begin(self, job: Callable[..., None], argument: Any) -> None:
        thread = threading.Thread(target=job, args=[argument])
        thread.start()
        self._threads.append(thread)

    def _read(self, headers: dict[str, str]) -> None:
        site = self.stack.site
        connection = http.client.HTTPConnection(site.host, site.port, timeout=TIMEOUT_S)
        paths = list(self.pages)
        for n in count():
            if n == len(paths):
                self._warm.release()
            if self._ending.wait(0.02):
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
            self.reads.append(Sample(began, status, how))
            if status == 200 and self.pages[path] not in body:
                self.wrong.append(f"{path}: {body[:100]!r}")

    def _write(self, item: str) -> None:
        """Change one item over and over, and read each change.

        A write that failed is sent again with its Idempotency-Key.
        """
        path, method = ITEMS, "POST"
        text = key = ""
        while not self._ending.wait(0.05):
            if not key:
                text, key = str(uuid4()), str(uuid4())
            body = {"id": item, "name": "Written", "description": text}
            headers = by(self.stack.token) | {"Idempotency-Key": key}
            began = time.monotonic()
            try:
                answer = self.stack.site.request(method, path, body, headers, TIMEOUT_S)
                status, how = answer.status, ""
            except (OSError, http.client.HTTPException) as error:
                status, how = 0, repr(error)
            self.writes.append(Sample(began, status, how))
            if status in (200, 201):
                path, method, key = ITEMS + item, "PUT", ""
                self.acknowledged.append(text)
                self._check(path, text)
                if len(self.acknowledged) == 1:
                    self._warm.release()

    def _check(self, path: str, text: str) -> None:
        """An acknowledged change is seen at once, except in a stale response."""
        try:
            seen = self.stack.site.get(path, **by(self.stack.token))
        except (OSError, http.client.HTTPException):
            return
        is_stale = "origin-failed" in seen.headers.get("Cache-Status", "")
        if seen.status == 200 and not is_stale and text.encode() not in seen.body:
            self.wrong.append(f"not seen by its writer: {text}")
