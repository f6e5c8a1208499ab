"""Load generators of a drill, in their own thread and event loop."""

import asyncio
import threading
from typing import Self
from uuid import uuid4

from tests.drill.history import History
from tests.drill.http_client import DrillClient, Sample
from tests.drill.readers import Paths, Readers
from tests.drill.writers import WRITERS, Submitter, Writer
from tests.load.connections import Address


class Clients:
    """Readers, writers and submitters, from `start` to `end`."""

    def __init__(
        self,
        address: Address,
        paths: Paths,
        history: History,
        token: str,
        session: str = "",
    ) -> None:
        self.history, self.paths, self.session = history, paths, session
        # Part of the names of all created items.
        self.run_id = uuid4().hex[:8]
        self._loop = asyncio.new_event_loop()
        self.client = DrillClient(address, history, token)
        self.submitter = Submitter(self.client, paths.jobs)
        self._thread = threading.Thread(target=self._run, name="clients")
        self._error: BaseException | None = None

    def start(self) -> Self:
        self._thread.start()
        return self

    def end(self) -> None:
        """Let each bring to an end what it has begun; raise what went wrong here."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.client.stopping.set)
            self._thread.join()
        if self._error:
            raise self._error

    @property
    def kinds(self) -> set[str]:
        """Kinds of requests in the continuous load."""
        return {"read", "write"} if self.client.token else {"read"}

    @property
    def samples(self) -> list[Sample]:
        return self.client.samples

    @property
    def submitted(self) -> dict[str, int]:
        return self.submitter.submitted

    def since(self, moment: float) -> list[Sample]:
        """Return the samples due after a moment, latest first."""
        recent: list[Sample] = []
        for one in reversed(self.samples):
            if one.ended < moment:
                break
            if one.due >= moment:
                recent.append(one)
        return recent

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._all())
        except BaseException as error:  # noqa: BLE001 - raised by end()
            self._error = error
        finally:
            self._loop.close()

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(Readers(self.client, self.paths, self.session).run())
            if self.client.token:
                for _ in range(WRITERS):
                    writer = Writer(self.client, self.paths.items, self.run_id)
                    group.create_task(writer.run())
            if self.client.token and self.paths.jobs:
                group.create_task(self.submitter.run())
        self.client.close()
