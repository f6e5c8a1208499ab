"""What the tests of server-sent events share."""

import asyncio
import functools
import json
import re
import threading
from typing import Any

from asgiref.sync import async_to_sync


def in_asyncio(test):
    """Run an asynchronous test, its database queries in this very thread."""

    @functools.wraps(test)
    def synchronous(**fixtures):
        async def limited():
            async with asyncio.timeout(120):
                await test(**fixtures)

        async_to_sync(limited)()

    return synchronous


def parse_events(content: bytes) -> list[tuple[str, str, Any]]:
    """Return the events of a stream: the name, the id and the data of each."""
    event = r"event: (.*)\n(?:id: (.*)\n)?data: (.*)\n\n"
    found = re.findall(event, content.decode())
    return [(name, event_id, json.loads(data)) for name, event_id, data in found]


def poller_threads(name: str) -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == f"{name}-poller"]


def join_pollers(name: str) -> None:
    """Wait for the ends of the pollers, which are without subscribers."""
    for thread in poller_threads(name):
        thread.join(90)
        assert not thread.is_alive()
