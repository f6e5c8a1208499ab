"""Load generator of reads: an open loop, independent of responses.

Latency counts from the time at which a request was due, which avoids coordinated
omission when the site stalls.
"""

import asyncio
from functools import partial
from time import monotonic
from typing import NamedTuple

from tests.drill.history import IS_ANSWERED, Outcome
from tests.drill.http_client import Check, DrillClient
from tests.load.connections import Answer

PER_S = 80.0
# Number of recently written items that are read.
LATEST = 8
# A response must be available as stale this long after it was first read.
KEPT_AFTER_S = 1.0

type ReadRequest = tuple[str, Check]  # path, and check of the response


class Paths(NamedTuple):
    """Paths of the endpoints; "" where the stack has none."""

    items: str
    list: str
    export: str  # what is large
    pages: str = ""
    jobs: str = ""


class Readers:
    """Half of the reads are anonymous, half authenticated by token or session."""

    def __init__(self, client: DrillClient, paths: Paths, session: str) -> None:
        self.client, self.paths = client, paths
        self._history, self._dice = client.history, client.dice
        self._cookie = {"Cookie": f"sessionid={session}"} if session else {}
        self._known: dict[tuple[str, ...], float] = {}

    async def run(self) -> None:
        await self._read_all_once()
        due = monotonic()
        async with asyncio.TaskGroup() as group:
            while not self.client.stopping.is_set():
                due += self._dice.expovariate(PER_S)
                if (left := due - monotonic()) > 0:
                    await asyncio.sleep(left)
                group.create_task(self._read(due))

    async def _read_all_once(self) -> None:
        """Read each item in each way, so that stale responses exist."""
        for item_id in self._history.names:
            for headers in ({}, self.client.token):
                due = monotonic()
                request = self._item(item_id, due, bool(headers))
                await self._ask(request, headers, due)
            if self.paths.pages:
                for headers in ({}, self._cookie):
                    await self._ask(self._page(item_id), headers, monotonic())

    async def _read(self, due: float) -> None:
        wants_page = bool(self.paths.pages) and self._dice.random() < 0.1
        headers = self._cookie if wants_page else self.client.token
        if self._dice.random() < 0.5:
            headers = {}
        if wants_page:
            request = self._page(self._dice.choice(list(self._history.names)))
        else:
            request = self._data(due, bool(headers))
        await self._ask(request, headers, due)

    async def _ask(
        self, request: ReadRequest, headers: dict[str, str], due: float
    ) -> None:
        path, judge = request
        answer = await self.client.send("GET", path, headers, due)
        outcome = judge(answer) if answer else Outcome.FAILED
        outcome = self._by_promise(outcome, (path, *headers))
        self.client.record(due, "read", bool(headers), outcome, answer)

    def _by_promise(self, outcome: Outcome, request: tuple[str, ...]) -> Outcome:
        """Return UNREAD for a rejected read that has never succeeded before."""
        if outcome in IS_ANSWERED:
            self._known.setdefault(request, monotonic())
        elif outcome is Outcome.REJECTED:
            since = self._known.get(request, float("inf"))
            if since > monotonic() - KEPT_AFTER_S:
                return Outcome.UNREAD
        return outcome

    def _page(self, item_id: str) -> ReadRequest:
        return f"{self.paths.pages}{item_id}/", partial(self._has, b"<h1")

    def _data(self, due: float, is_authenticated: bool) -> ReadRequest:
        chance = self._dice.random()
        if chance < 0.1:
            return self.paths.list, partial(self._has, b'"name"')
        item_ids = list(self._history.names)
        if chance < 0.4 and self._history.written:
            item_ids = list(self._history.written)[-LATEST:]
        return self._item(self._dice.choice(item_ids), due, is_authenticated)

    def _item(self, item_id: str, due: float, is_authenticated: bool) -> ReadRequest:
        def judge(answer: Answer) -> Outcome:
            return self._history.of_item(item_id, answer, due, not is_authenticated)

        return f"{self.paths.items}{item_id}/", judge

    def _has(self, wanted: bytes, answer: Answer) -> Outcome:
        return self._history.of_page(answer, wanted)
