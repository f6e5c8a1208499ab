"""The clients of a drill, in a thread and an event loop of their own."""

import asyncio
import threading
from typing import Self
from uuid import uuid4

from tests.drill.asking import Asking, Seen
from tests.drill.knowledge import Knowledge
from tests.drill.readers import Paths, Readers
from tests.drill.writers import WRITERS, Submitter, Writer
from tests.load.connections import Address


class Clients:
    """Readers, writers and submitters, from `start` to `end`."""

    def __init__(
        self,
        address: Address,
        paths: Paths,
        knowledge: Knowledge,
        token: str,
        session: str = "",
    ) -> None:
        self.knowledge, self.paths, self.session = knowledge, paths, session
        # In the names of all items that are made.
        self.run_id = uuid4().hex[:8]
        self._loop = asyncio.new_event_loop()
        self.asking = Asking(address, knowledge, token)
        self.submitter = Submitter(self.asking, paths.jobs)
        self._thread = threading.Thread(target=self._run, name="clients")
        self._error: BaseException | None = None

    def start(self) -> Self:
        self._thread.start()
        return self

    def end(self) -> None:
        """Let each bring to an end what it has begun; raise what went wrong here."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.asking.ending.set)
            self._thread.join()
        if self._error:
            raise self._error

    @property
    def kinds(self) -> set[str]:
        """What is asked for all the time."""
        return {"read", "write"} if self.asking.token else {"read"}

    @property
    def seen(self) -> list[Seen]:
        return self.asking.seen

    @property
    def submitted(self) -> dict[str, int]:
        return self.submitter.submitted

    def since(self, moment: float) -> list[Seen]:
        """Return what was due after a moment, the latest first."""
        recent: list[Seen] = []
        for one in reversed(self.seen):
            if one.ended < moment:
                break
            if one.due >= moment:
                recent.append(one)
        return recent

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._all())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            self._loop.close()

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(Readers(self.asking, self.paths, self.session).run())
            if self.asking.token:
                for _ in range(WRITERS):
                    writer = Writer(self.asking, self.paths.items, self.run_id)
                    group.create_task(writer.run())
            if self.asking.token and self.paths.jobs:
                group.create_task(self.submitter.run())
        self.asking.close()
