"""State of the site by its REST API, before and after a drill."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.drill.clients import TIMEOUT_S, DrillClients, Paths
from tests.drill.history import (
    Findings,
    History,
    check_changes,
    check_items,
    check_jobs,
)
from tests.load.connections import Address, Answer, Connections, request_bytes
from tests.private_server import wait_for

API = Paths(
    items="/api/v1/items/",
    list="/api/v1/items?page_size=10",
    export="/api/v1/items/export",
    pages="/items/",
    jobs="/api/v1/jobs/",
)
KNOWN_ITEMS = 40
UNFINISHED = ("queued", "running")
JOBS_END_S = 60
EVENTS_END_S = 20


class Api:
    def __init__(self, address: Address, token: str = "") -> None:
        self._address = address
        self._headers = {"Authorization": f"Token {token}"} if token else {}
        # The start of this drill in the change log.
        self._begin = self.get("/api/v1/changes?since=now")["next"]
        self.changes: list[dict[str, Any]] = []

    def history(self) -> History:
        """Raise RuntimeError if there is nothing to read."""
        found = self.get(f"{API.items}?page_size={KNOWN_ITEMS}")["results"]
        if not found:
            raise RuntimeError("The catalogue is empty: there is nothing to read.")
        return History({str(item["id"]): item["name"] for item in found})

    def check(self, found: Findings, clients: DrillClients) -> None:
        items = self._pages(f"{API.items}?search={clients.run_id}")
        check_items(found, clients.history, items)
        # Changes by others are ignored.
        self.changes = [
            change
            for change in self._all_changes()
            if clients.run_id in (change["after"] or {}).get("name", "")
        ]
        check_changes(found, clients.history, self.changes)
        if clients.submitted:
            with suppress(TimeoutError):
                wait_for(lambda: not any(map(self._jobs, UNFINISHED)), JOBS_END_S)
            jobs = self._pages(f"{API.jobs}?task=heavy_computation&page_size=200")
            check_jobs(
                found, clients.submitted, jobs,
                lambda job_id: self.get(f"{API.jobs}{job_id}")["result"],
            )  # fmt: skip
        found.wrong_answers += clients.history.wrong

    def wait_for_last(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the events once the last change has arrived, or after a timeout."""
        last = self.changes[-1]
        last_event = str(last["item_id"]), last["version"]

        def has_arrived() -> bool:
            return last_event in [(e["subject"], e["data"]["version"]) for e in events]

        with suppress(TimeoutError):
            wait_for(has_arrived, EVENTS_END_S)
        return list(events)

    def get(self, url: str) -> Any:
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return orjson.loads(self.send("GET", path))

    def send(self, method: str, path: str) -> bytes:
        """Return the body of the response. Raises RuntimeError for an error."""
        host, headers = self._address.host, self._headers
        request = request_bytes(method, path, host, headers=headers)

        async def exchange() -> Answer:
            connections = Connections(self._address)
            async with asyncio.timeout(TIMEOUT_S):
                answer = await connections.send(request)
            connections.close()
            return answer

        answer = asyncio.run(exchange())
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {answer.body!r}")
        return answer.body

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        while path:
            page = self.get(path)
            yield from page["results"]
            path = page["next"]

    def _all_changes(self) -> Iterator[dict[str, Any]]:
        page = self.get(self._begin)
        while page["results"]:
            yield from page["results"]
            page = self.get(page["next"])

    def _jobs(self, state: str) -> list[dict[str, Any]]:
        return self.get(f"{API.jobs}?state={state}")["results"]
