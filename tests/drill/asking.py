"""How the clients of a drill ask, and note what they met with."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

import orjson

from tests.drill.knowledge import IS_ANSWERED, Knowledge, Outcome, age_of
from tests.load.connections import Address, Answer, Connections, request_bytes

# A client waits no longer than this for an answer.
PATIENCE_S = 10.0
# What failed is sent again after as long as the answer says, but no later than this.
AGAIN_MAX_S = 1.0
AGAIN_S = 0.1
# At the end of the drill it is tried no longer.
END_S = 30.0

type Judge = Callable[[Answer], Outcome]


class Seen(NamedTuple):
    """What came of one request; times in seconds of the monotonic clock."""

    due: float
    took_s: float
    kind: str  # "read", "write" or "job"
    is_signed_in: bool
    outcome: Outcome
    age_s: float

    @property
    def ended(self) -> float:
        return self.due + self.took_s


class Asking:
    """What all clients share. To be made in their event loop."""

    def __init__(self, address: Address, knowledge: Knowledge, token: str) -> None:
        self.knowledge = knowledge
        self.token = {"Authorization": f"Token {token}"} if token else {}
        self.seen: list[Seen] = []
        self.ending = asyncio.Event()
        self.dice = random.Random()
        self._host = address.host
        self._connections = Connections(address)

    def close(self) -> None:
        self._connections.close()

    async def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        due: float,
        body: bytes = b"",
        patience_s: float = PATIENCE_S,
    ) -> Answer | None:
        """Return None if there was no answer, or none in time."""
        request = request_bytes(method, path, self._host, body, headers)
        left = patience_s - (monotonic() - due)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(max(left, 0.0)):
                return await self._connections.ask(request, method == "GET")
        return None

    async def until_done(
        self,
        kind: str,
        method: str,
        path: str,
        content: dict[str, Any],
        judge: Judge,
        patience_s: float = PATIENCE_S,
        **headers: str,
    ) -> Answer | None:
        """Send a write until it is confirmed; None if it was not by the end."""
        headers |= self.token | {"Idempotency-Key": uuid4().hex}
        body = orjson.dumps(content)
        failures, give_up_at = 0, float("inf")
        while (due := monotonic()) < give_up_at:
            answer = await self.ask(method, path, headers, due, body, patience_s)
            outcome = self._judged(answer, judge)
            self.note(due, kind, True, outcome, answer)
            if outcome in IS_ANSWERED:
                return answer
            if self.ending.is_set():
                give_up_at = min(give_up_at, due + END_S)
            failures += 1
            await asyncio.sleep(self._before_again(answer, failures))
        return None

    def _judged(self, answer: Answer | None, judge: Judge) -> Outcome:
        if answer is None:
            return Outcome.FAILED
        # The first try is still under way.
        if answer.status == 409 and "retry-after" in answer.headers:
            return Outcome.REFUSED
        if 400 <= answer.status < 500 and answer.status != 429:
            return self.knowledge.note_wrong(f"{answer.status}: {answer.body!r}")
        return judge(answer)

    def _before_again(self, answer: Answer | None, failures: int) -> float:
        told = answer.headers.get("retry-after", "") if answer else ""
        wait = float(told) if told.isdigit() else AGAIN_S * 2 ** min(failures, 5)
        return min(wait, AGAIN_MAX_S) * self.dice.uniform(0.5, 1)

    def note(
        self,
        due: float,
        kind: str,
        is_signed_in: bool,
        outcome: Outcome,
        answer: Answer | None,
    ) -> None:
        age = age_of(answer) if answer and outcome is Outcome.STALE else 0.0
        took = monotonic() - due
        self.seen.append(Seen(due, took, kind, is_signed_in, outcome, age))

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)
