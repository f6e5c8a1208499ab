"""Load generators of writes and jobs, which repeat failures with the same key."""

import asyncio
import random
from uuid import uuid4

import orjson

from tests.drill.history import (
    IS_ANSWERED,
    JOB_SIZE_MAX,
    Outcome,
    WrittenItem,
    outcome_of,
)
from tests.drill.http_client import TIMEOUT_S, DrillClient
from tests.load.connections import Answer

WRITERS = 4
BETWEEN_WRITES_S = 0.2
WRITES_PER_ITEM = 25
BETWEEN_JOBS_S = 0.5
JOB_WAIT_S = 30


class Writer:
    """Creates items, and updates each with new texts."""

    def __init__(self, client: DrillClient, items: str, run_id: str) -> None:
        self.client, self.items, self.run_id = client, items, run_id

    async def run(self) -> None:
        history = self.client.history
        while not self.client.stopping.is_set():
            written = WrittenItem(f"drill {self.run_id} {uuid4().hex[:8]}")
            history.unconfirmed[written.name] = written
            answer = await self._write(written, "POST", self.items)
            if answer is None:
                return
            item_id = str(orjson.loads(answer.body)["id"])
            history.written[item_id] = written
            del history.unconfirmed[written.name]
            await self._write_on(written, f"{self.items}{item_id}/")

    async def _write_on(self, written: WrittenItem, path: str) -> None:
        for _ in range(WRITES_PER_ITEM):
            await self.client.pause(
                BETWEEN_WRITES_S * self.client.dice.uniform(0.5, 1.5)
            )
            if self.client.stopping.is_set():
                return
            await self._write(written, "PUT", path)

    async def _write(
        self, written: WrittenItem, method: str, path: str
    ) -> Answer | None:
        text = f"{written.name} {len(written.texts)}"
        place = written.send(text)

        def judge(answer: Answer) -> Outcome:
            outcome = outcome_of(answer)
            if outcome in IS_ANSWERED:
                if orjson.loads(answer.body)["description"] != text:
                    return self.client.history.record_wrong(f"{text}: {answer.body!r}")
                written.confirm(place)
            return outcome

        content = {"name": written.name, "description": text}
        return await self.client.send_until_confirmed(
            "write", method, path, content, judge
        )


class Submitter:
    """Submits computations with known results, and waits for each."""

    def __init__(self, client: DrillClient, jobs: str) -> None:
        self.client, self.jobs = client, jobs
        self.submitted: dict[str, int] = {}  # the size of each job, by its id
        self._sizes = iter(random.sample(range(2, JOB_SIZE_MAX), 50_000))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while not self.client.stopping.is_set():
                group.create_task(self._submit(next(self._sizes)))
                await self.client.pause(BETWEEN_JOBS_S)

    async def _submit(self, size: int) -> None:
        def judge(answer: Answer) -> Outcome:
            outcome = outcome_of(answer)
            if outcome in IS_ANSWERED:
                self.submitted[orjson.loads(answer.body)["id"]] = size
            return outcome

        content = {"task": "heavy_computation", "params": {"size": size}}
        await self.client.send_until_confirmed(
            "job", "POST", self.jobs, content, judge, TIMEOUT_S + JOB_WAIT_S,
            Prefer=f"wait={JOB_WAIT_S}",
        )  # fmt: skip
