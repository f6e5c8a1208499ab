"""Load of the drill: readers, writers and submitters of jobs, in a thread of their own.

Reads are an open loop, independent of responses. Latency counts from the time at which
a request was due, which avoids coordinated omission when the site stalls. Writers and
submitters repeat what failed with the same Idempotency-Key.
"""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

import orjson

from tests.drill.history import (
    IS_ANSWERED,
    JOB_SIZE_MAX,
    History,
    Outcome,
    WrittenItem,
    age_of,
    outcome_of,
)
from tests.load.connections import Answer, Connections, request_bytes

# The time limit of a request.
TIMEOUT_S = 10.0
# A failed write is repeated after Retry-After, but at the latest after this time.
AGAIN_MAX_S = 1.0
AGAIN_S = 0.1
# Retries stop this long after the end of the drill.
END_S = 30.0

ITEMS, LIST = "/api/v1/items/", "/api/v1/items?page_size=10"
PAGES, JOBS = "/items/", "/api/v1/jobs/"
LOOKUP = "/api/v1/collections/{}/lookup?code={}"

READS_PER_S = 80.0
# Number of recently written items that are read.
LATEST = 8
# A response must be available as stale this long after it was first read.
KEPT_AFTER_S = 1.0

WRITERS = 4
BETWEEN_WRITES_S = 0.2
WRITES_PER_ITEM = 25
BETWEEN_JOBS_S = 0.5
JOB_WAIT_S = 30

type Check = Callable[[Answer], Outcome]


class Sample(NamedTuple):
    """Outcome of one request; times in seconds of the monotonic clock."""

    due: float
    took_s: float
    kind: str  # "read", "write" or "job"
    outcome: Outcome
    age_s: float = 0.0

    @property
    def ended(self) -> float:
        return self.due + self.took_s


class DrillClients:
    """All load, from `start` to `end`, with a sample of each request."""

    def __init__(
        self, host: str, port: int, history: History, token: str, session: str
    ) -> None:
        self.history = history
        self.token = {"Authorization": f"Token {token}"}
        self.session = {"Cookie": f"sessionid={session}"}
        # Part of the names of all created items.
        self.run_id = uuid4().hex[:8]
        self.samples: list[Sample] = []
        self.submitted: dict[str, int] = {}  # the size of each job, by its id
        self.load = 1.0  # of READS_PER_S, and so much of the writes and jobs
        # When the site began to have a stale response, by path and kind of client.
        self.first_read: dict[tuple[str, ...], float] = {}
        self.stopping = asyncio.Event()
        self._connections = Connections(port, host)
        self._loop = asyncio.new_event_loop()
        self._thread = ThreadPoolExecutor(1)

    def start(self) -> None:
        self._done = self._thread.submit(self._loop.run_until_complete, self._run())

    def end(self) -> None:
        """Let each bring to an end what it has begun; raise what went wrong here."""
        self._loop.call_soon_threadsafe(self.stopping.set)
        self._done.result()
        self._loop.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(Readers(self).run())
            for _ in range(WRITERS):
                group.create_task(write(self))
            group.create_task(submit_jobs(self))
        self._connections.close()

    def since(self, moment: float) -> list[Sample]:
        """Return the samples due after a moment, latest first."""
        recent: list[Sample] = []
        for one in reversed(self.samples):
            if one.ended < moment:
                break
            if one.due >= moment:
                recent.append(one)
        return recent

    # --- in the thread

    async def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the drill."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        due: float,
        body: bytes = b"",
        extra_s: float = 0,
    ) -> Answer | None:
        """Return the response, or None without one in time."""
        request = request_bytes(method, path, body, headers)
        left = TIMEOUT_S + extra_s - (monotonic() - due)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(max(left, 0.0)):
                return await self._connections.send(request, method == "GET")
        return None

    async def send_until_confirmed(
        self,
        kind: str,
        method: str,
        path: str,
        content: dict[str, Any],
        judge: Check,
        extra_s: float = 0,
        **headers: str,
    ) -> Answer | None:
        """Repeat a write until it is confirmed; return None if it never was."""
        headers |= self.token | {"Idempotency-Key": uuid4().hex}
        body = orjson.dumps(content)
        failures, give_up_at = 0, float("inf")
        while (due := monotonic()) < give_up_at:
            answer = await self.send(method, path, headers, due, body, extra_s)
            outcome = self._outcome_of_write(answer, judge)
            self.record(due, kind, outcome, answer)
            if outcome in IS_ANSWERED:
                return answer
            if self.stopping.is_set():
                give_up_at = min(give_up_at, due + END_S)
            failures += 1
            wait_s = AGAIN_S * 2 ** min(failures, 5)
            after = answer.headers.get("retry-after", "") if answer else ""
            wait_s = min(float(after) if after.isdigit() else wait_s, AGAIN_MAX_S)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1))
        return None

    def _outcome_of_write(self, answer: Answer | None, judge: Check) -> Outcome:
        if answer is None:
            return Outcome.FAILED
        # The first attempt is still running.
        if answer.status == 409 and "retry-after" in answer.headers:
            return Outcome.REJECTED
        if 400 <= answer.status < 500 and answer.status != 429:
            return self.history.record_wrong(f"{answer.status}: {answer.body!r}")
        return judge(answer)

    def record(
        self, due: float, kind: str, outcome: Outcome, answer: Answer | None
    ) -> None:
        age_s = age_of(answer) if answer and outcome is Outcome.STALE else 0.0
        self.samples.append(Sample(due, monotonic() - due, kind, outcome, age_s))


class Readers:
    """Half of the reads are anonymous, half authenticated by token or session."""

    def __init__(self, clients: DrillClients) -> None:
        self.clients, self.history = clients, clients.history

    async def run(self) -> None:
        await self._read_all_once()
        due = monotonic()
        async with asyncio.TaskGroup() as group:
            while not self.clients.stopping.is_set():
                due += random.expovariate(READS_PER_S * self.clients.load)
                if (left := due - monotonic()) > 0:
                    await asyncio.sleep(left)
                group.create_task(self._read_any(due))

    async def _read_all_once(self) -> None:
        """Read each item in each way, so that stale responses exist."""
        for item_id in self.history.names:
            for headers in ({}, self.clients.token):
                await self._read_item(item_id, headers, monotonic())
            for headers in ({}, self.clients.session):
                await self._read_page(item_id, headers, monotonic())
            for headers in ({}, self.clients.token):
                await self._look_up(item_id, headers, monotonic())

    async def _read_any(self, due: float) -> None:
        is_anonymous = random.random() < 0.5
        item_ids = list(self.history.names)
        if random.random() < 0.1:
            headers = {} if is_anonymous else self.clients.session
            await self._read_page(random.choice(item_ids), headers, due)
            return
        headers = {} if is_anonymous else self.clients.token
        chance = random.random()
        if chance < 0.1:
            judge = partial(self.history.judge_page, expected=b'"name"')
            await self._read(LIST, judge, headers, due)
            return
        if chance < 0.25:
            await self._look_up(random.choice(item_ids), headers, due)
            return
        if chance < 0.5 and self.history.written:
            item_ids = list(self.history.written)[-LATEST:]
        await self._read_item(random.choice(item_ids), headers, due)

    async def _read_page(
        self, item_id: str, headers: dict[str, str], due: float
    ) -> None:
        judge = partial(self.history.judge_page, expected=b"<h1")
        await self._read(f"{PAGES}{item_id}/", judge, headers, due)

    async def _read_item(
        self, item_id: str, headers: dict[str, str], due: float
    ) -> None:
        judge = partial(
            self.history.judge_item, item_id, started=due, may_be_late=not headers
        )
        await self._read(f"{ITEMS}{item_id}/", judge, headers, due)

    async def _look_up(self, item_id: str, headers: dict[str, str], due: float) -> None:
        judge = partial(self.history.judge_page, expected=b'"found":true')
        collection, _, code = item_id.partition(".")  # as the sample has them
        await self._read(LOOKUP.format(collection, code), judge, headers, due)

    async def _read(
        self, path: str, judge: Check, headers: dict[str, str], due: float
    ) -> None:
        answer = await self.clients.send("GET", path, headers, due)
        outcome = judge(answer) if answer else Outcome.FAILED
        if outcome in IS_ANSWERED:
            self.clients.first_read.setdefault((path, *headers), monotonic())
        elif outcome is Outcome.REJECTED:
            since = self.clients.first_read.get((path, *headers), float("inf"))
            if since > monotonic() - KEPT_AFTER_S:
                outcome = Outcome.UNREAD
        self.clients.record(due, "read", outcome, answer)


async def write(clients: DrillClients) -> None:
    """Create items, and update each with new texts."""
    history = clients.history
    while not clients.stopping.is_set():
        written = WrittenItem(f"drill {clients.run_id} {uuid4().hex[:8]}")
        history.unconfirmed[written.name] = written
        answer = await _write_text(clients, written, "POST", ITEMS)
        if answer is None:
            return
        item_id = str(orjson.loads(answer.body)["id"])
        history.written[item_id] = written
        del history.unconfirmed[written.name]
        for _ in range(WRITES_PER_ITEM):
            await clients.pause(
                BETWEEN_WRITES_S / clients.load * random.uniform(0.5, 1.5)
            )
            if clients.stopping.is_set():
                return
            await _write_text(clients, written, "PUT", f"{ITEMS}{item_id}/")


async def _write_text(
    clients: DrillClients, written: WrittenItem, method: str, path: str
) -> Answer | None:
    text = f"{written.name} {len(written.texts)}"
    place = written.send(text)

    def judge(answer: Answer) -> Outcome:
        outcome = outcome_of(answer)
        if outcome in IS_ANSWERED:
            if orjson.loads(answer.body)["description"] != text:
                return clients.history.record_wrong(f"{text}: {answer.body!r}")
            written.confirm(place)
        return outcome

    content = {"name": written.name, "description": text}
    return await clients.send_until_confirmed("write", method, path, content, judge)


async def submit_jobs(clients: DrillClients) -> None:
    """Submit computations with known results, and wait for each."""
    sizes = iter(random.sample(range(2, JOB_SIZE_MAX), 50_000))
    async with asyncio.TaskGroup() as group:
        while not clients.stopping.is_set():
            group.create_task(_submit_job(clients, next(sizes)))
            await clients.pause(BETWEEN_JOBS_S / clients.load)


async def _submit_job(clients: DrillClients, size: int) -> None:
    def judge(answer: Answer) -> Outcome:
        outcome = outcome_of(answer)
        if outcome in IS_ANSWERED:
            clients.submitted[orjson.loads(answer.body)["id"]] = size
        return outcome

    content = {"task": "heavy_computation", "params": {"size": size}}
    await clients.send_until_confirmed(
        "job", "POST", JOBS, content, judge, JOB_WAIT_S,
        Prefer=f"wait={JOB_WAIT_S}",
    )  # fmt: skip
