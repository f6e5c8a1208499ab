"""Gathering: what is asked for while a group is fetched is fetched together, as next.

Nothing waits for requests that may not come, and many share a thread and a query.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

GROUP_MAX = 64
# When a group takes longer, the next one is fetched beside it.
ALONE_S = 0.02


class Gatherer[T]:
    """Hands all that is added on to `fetch`, in groups; that raises nothing."""

    def __init__(self, fetch: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._fetch = fetch
        self._waiting = deque[T]()
        self._task: asyncio.Task[None] | None = None

    def add(self, one: T) -> None:
        self._waiting.append(one)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            number = min(len(self._waiting), GROUP_MAX)
            group = [self._waiting.popleft() for _ in range(number)]
            task = asyncio.ensure_future(self._fetch(group))
            await asyncio.wait({task}, timeout=ALONE_S)
