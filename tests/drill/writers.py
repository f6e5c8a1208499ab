"""Writers, and those who hand in jobs: what fails they send again with its key."""

import asyncio
import random
from uuid import uuid4

import orjson

from tests.drill.asking import PATIENCE_S, Asking
from tests.drill.knowledge import (
    IS_ANSWERED,
    JOB_SIZE_MAX,
    Outcome,
    Written,
    outcome_of,
)
from tests.load.connections import Answer

WRITERS = 4
BETWEEN_WRITES_S = 0.2
WRITES_PER_ITEM = 25
BETWEEN_JOBS_S = 0.5
JOB_WAIT_S = 30


class Writer:
    """Makes one item after another, and gives each ever new texts."""

    def __init__(self, asking: Asking, items: str, run_id: str) -> None:
        self.asking, self.items, self.run_id = asking, items, run_id

    async def run(self) -> None:
        knowledge = self.asking.knowledge
        while not self.asking.ending.is_set():
            written = Written(f"drill {self.run_id} {uuid4().hex[:8]}")
            knowledge.unconfirmed[written.name] = written
            answer = await self._write(written, "POST", self.items)
            if answer is None:
                return
            item_id = str(orjson.loads(answer.body)["id"])
            knowledge.written[item_id] = written
            del knowledge.unconfirmed[written.name]
            await self._write_on(written, f"{self.items}{item_id}/")

    async def _write_on(self, written: Written, path: str) -> None:
        for _ in range(WRITES_PER_ITEM):
            await self.asking.pause(
                BETWEEN_WRITES_S * self.asking.dice.uniform(0.5, 1.5)
            )
            if self.asking.ending.is_set():
                return
            await self._write(written, "PUT", path)

    async def _write(self, written: Written, method: str, path: str) -> Answer | None:
        text = f"{written.name} {len(written.texts)}"
        place = written.send(text)

        def judge(answer: Answer) -> Outcome:
            outcome = outcome_of(answer)
            if outcome in IS_ANSWERED:
                if orjson.loads(answer.body)["description"] != text:
                    return self.asking.knowledge.note_wrong(f"{text}: {answer.body!r}")
                written.confirm(place)
            return outcome

        content = {"name": written.name, "description": text}
        return await self.asking.until_done("write", method, path, content, judge)


class Submitter:
    """Hands in computations whose results are known, and waits for each."""

    def __init__(self, asking: Asking, jobs: str) -> None:
        self.asking, self.jobs = asking, jobs
        self.submitted: dict[str, int] = {}  # the size of each job, by its id
        self._sizes = iter(random.sample(range(2, JOB_SIZE_MAX), 50_000))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while not self.asking.ending.is_set():
                group.create_task(self._submit(next(self._sizes)))
                await self.asking.pause(BETWEEN_JOBS_S)

    async def _submit(self, size: int) -> None:
        def judge(answer: Answer) -> Outcome:
            outcome = outcome_of(answer)
            if outcome in IS_ANSWERED:
                self.submitted[orjson.loads(answer.body)["id"]] = size
            return outcome

        content = {"task": "heavy_computation", "params": {"size": size}}
        await self.asking.until_done(
            "job", "POST", self.jobs, content, judge, PATIENCE_S + JOB_WAIT_S,
            Prefer=f"wait={JOB_WAIT_S}",
        )  # fmt: skip
