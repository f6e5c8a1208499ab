"""HTTP client of the load generators, which records a sample of each request."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

import orjson

from tests.drill.history import IS_ANSWERED, History, Outcome, age_of
from tests.load.connections import Address, Answer, Connections, request_bytes

# The time limit of a request.
TIMEOUT_S = 10.0
# A failed write is repeated after Retry-After, but at the latest after this time.
AGAIN_MAX_S = 1.0
AGAIN_S = 0.1
# Retries stop this long after the end of the drill.
END_S = 30.0

type Check = Callable[[Answer], Outcome]


class Sample(NamedTuple):
    """Outcome of one request; times in seconds of the monotonic clock."""

    due: float
    took_s: float
    kind: str  # "read", "write" or "job"
    is_authenticated: bool
    outcome: Outcome
    age_s: float

    @property
    def ended(self) -> float:
        return self.due + self.took_s


class DrillClient:
    """Shared by all load generators; created in their event loop."""

    def __init__(self, address: Address, history: History, token: str) -> None:
        self.history = history
        self.token = {"Authorization": f"Token {token}"} if token else {}
        self.samples: list[Sample] = []
        self.stopping = asyncio.Event()
        self.dice = random.Random()
        self._host = address.host
        self._connections = Connections(address)

    def close(self) -> None:
        self._connections.close()

    async def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        due: float,
        body: bytes = b"",
        timeout_s: float = TIMEOUT_S,
    ) -> Answer | None:
        """Return the response, or None without one in time."""
        request = request_bytes(method, path, self._host, body, headers)
        left = timeout_s - (monotonic() - due)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(max(left, 0.0)):
                return await self._connections.ask(request, method == "GET")
        return None

    async def send_until_confirmed(
        self,
        kind: str,
        method: str,
        path: str,
        content: dict[str, Any],
        judge: Check,
        timeout_s: float = TIMEOUT_S,
        **headers: str,
    ) -> Answer | None:
        """Repeat a write until it is confirmed; return None if it never was."""
        headers |= self.token | {"Idempotency-Key": uuid4().hex}
        body = orjson.dumps(content)
        failures, give_up_at = 0, float("inf")
        while (due := monotonic()) < give_up_at:
            answer = await self.send(method, path, headers, due, body, timeout_s)
            outcome = self._outcome(answer, judge)
            self.record(due, kind, True, outcome, answer)
            if outcome in IS_ANSWERED:
                return answer
            if self.stopping.is_set():
                give_up_at = min(give_up_at, due + END_S)
            failures += 1
            await asyncio.sleep(self._retry_delay_s(answer, failures))
        return None

    def _outcome(self, answer: Answer | None, judge: Check) -> Outcome:
        if answer is None:
            return Outcome.FAILED
        # The first attempt is still running.
        if answer.status == 409 and "retry-after" in answer.headers:
            return Outcome.REJECTED
        if 400 <= answer.status < 500 and answer.status != 429:
            return self.history.record_wrong(f"{answer.status}: {answer.body!r}")
        return judge(answer)

    def _retry_delay_s(self, answer: Answer | None, failures: int) -> float:
        retry_after = answer.headers.get("retry-after", "") if answer else ""
        wait = (
            float(retry_after)
            if retry_after.isdigit()
            else AGAIN_S * 2 ** min(failures, 5)
        )
        return min(wait, AGAIN_MAX_S) * self.dice.uniform(0.5, 1)

    def record(
        self,
        due: float,
        kind: str,
        is_authenticated: bool,
        outcome: Outcome,
        answer: Answer | None,
    ) -> None:
        age = age_of(answer) if answer and outcome is Outcome.STALE else 0.0
        took = monotonic() - due
        self.samples.append(Sample(due, took, kind, is_authenticated, outcome, age))

    async def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the drill."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
