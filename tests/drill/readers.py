"""Readers come when they come, whether or not others were answered (an open loop).

A request counts from the moment at which it was due, so that a site that stands still
is charged with all who had to wait.
"""

import asyncio
from functools import partial
from time import monotonic
from typing import NamedTuple

from tests.drill.asking import Asking, Judge
from tests.drill.knowledge import IS_ANSWERED, Outcome
from tests.load.connections import Answer

PER_S = 80.0
# Of the items that are being written, so many are read.
LATEST = 8
# What was read is kept for bad times, so much later, and by how it was asked for.
KEPT_AFTER_S = 1.0

type Question = tuple[str, Judge]  # a path, and what to make of the answer


class Paths(NamedTuple):
    """Where what is to be found; "" where it is not."""

    items: str
    list: str
    export: str  # what is large
    pages: str = ""
    jobs: str = ""


class Readers:
    """Half of them strangers, half signed in, by token and by session."""

    def __init__(self, asking: Asking, paths: Paths, session: str) -> None:
        self.asking, self.paths = asking, paths
        self._knowledge, self._dice = asking.knowledge, asking.dice
        self._cookie = {"Cookie": f"sessionid={session}"} if session else {}
        self._known: dict[tuple[str, ...], float] = {}

    async def run(self) -> None:
        await self._read_all_once()
        due = monotonic()
        async with asyncio.TaskGroup() as group:
            while not self.asking.ending.is_set():
                due += self._dice.expovariate(PER_S)
                if (left := due - monotonic()) > 0:
                    await asyncio.sleep(left)
                group.create_task(self._read(due))

    async def _read_all_once(self) -> None:
        """Have what is promised be of some use."""
        for item_id in self._knowledge.names:
            for headers in ({}, self.asking.token):
                due = monotonic()
                question = self._item(item_id, due, bool(headers))
                await self._ask(question, headers, due)
            if self.paths.pages:
                for headers in ({}, self._cookie):
                    await self._ask(self._page(item_id), headers, monotonic())

    async def _read(self, due: float) -> None:
        wants_page = bool(self.paths.pages) and self._dice.random() < 0.1
        headers = self._cookie if wants_page else self.asking.token
        if self._dice.random() < 0.5:
            headers = {}
        if wants_page:
            question = self._page(self._dice.choice(list(self._knowledge.names)))
        else:
            question = self._data(due, bool(headers))
        await self._ask(question, headers, due)

    async def _ask(
        self, question: Question, headers: dict[str, str], due: float
    ) -> None:
        path, judge = question
        answer = await self.asking.ask("GET", path, headers, due)
        outcome = judge(answer) if answer else Outcome.FAILED
        outcome = self._by_promise(outcome, (path, *headers))
        self.asking.note(due, "read", bool(headers), outcome, answer)

    def _by_promise(self, outcome: Outcome, question: tuple[str, ...]) -> Outcome:
        """Nobody is promised what he has never read."""
        if outcome in IS_ANSWERED:
            self._known.setdefault(question, monotonic())
        elif outcome is Outcome.REFUSED:
            since = self._known.get(question, float("inf"))
            if since > monotonic() - KEPT_AFTER_S:
                return Outcome.UNREAD
        return outcome

    def _page(self, item_id: str) -> Question:
        return f"{self.paths.pages}{item_id}/", partial(self._has, b"<h1")

    def _data(self, due: float, is_signed_in: bool) -> Question:
        chance = self._dice.random()
        if chance < 0.1:
            return self.paths.list, partial(self._has, b'"name"')
        item_ids = list(self._knowledge.names)
        if chance < 0.4 and self._knowledge.written:
            item_ids = list(self._knowledge.written)[-LATEST:]
        return self._item(self._dice.choice(item_ids), due, is_signed_in)

    def _item(self, item_id: str, due: float, is_signed_in: bool) -> Question:
        def judge(answer: Answer) -> Outcome:
            return self._knowledge.of_item(item_id, answer, due, not is_signed_in)

        return f"{self.paths.items}{item_id}/", judge

    def _has(self, wanted: bytes, answer: Answer) -> Outcome:
        return self._knowledge.of_page(answer, wanted)
