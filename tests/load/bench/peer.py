"""A server of a catalogue, this site or another, and its request templates."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from tests.load.request_template import RequestTemplate

OURS = "this site"
FASTAPI = "FastAPI, a dictionary"
NINJA = "Django Ninja, gunicorn"
REST = "DRF ModelViewSet, gunicorn"
BARE = "bare ASGI answer"
NGINX = "nginx's cache before this site"
# All servers have items of similar size, with numbers from 1 to this.
ITEMS = 1_000
ITEM = {"name": "Germany", "description": "A country"}
BULK = 100


@dataclass(frozen=True)
class Peer:
    port: int
    servers: Callable[[], Iterable[psutil.Process]]
    items: str = "/items/"
    slash: str = ""  # at the end of paths below items
    authorization: str = ""
    database: str = ""

    def busy_s(self) -> float:
        """Return the processor time of its processes.

        That of ended processes is included in their parents.
        """
        total = 0.0
        for process in self.servers():
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def read(self) -> RequestTemplate:
        return RequestTemplate(self.port, f"{self.items}1{self.slash}")

    def read_any(self, numbers: int) -> RequestTemplate:
        return RequestTemplate(
            self.port, f"{self.items}{{n}}{self.slash}", numbers=numbers
        )

    def read_authenticated(self) -> RequestTemplate:
        return replace(self.read(), headers=self._authenticated)

    def search(self) -> RequestTemplate:
        """A search that no cache has."""
        return RequestTemplate(self.port, f"{self.items}?search=nothing{{count}}")

    def create(self) -> RequestTemplate:
        return self.write("POST", "", ITEM)

    def update(self, item: str = "{n}", numbers: int = ITEMS) -> RequestTemplate:
        change = ITEM | {"description": "Change {count}"}
        template = self.write("PUT", f"{item}{self.slash}", change)
        return replace(template, numbers=numbers)

    def create_many(self) -> RequestTemplate:
        return self.write("POST", f"bulk{self.slash}", [ITEM] * BULK)

    def write(self, method: str, path: str, data: object) -> RequestTemplate:
        path, body = self.items + path, json.dumps(data)
        return RequestTemplate(self.port, path, method, body, self._authenticated)

    @property
    def _authenticated(self) -> dict[str, str]:
        return {"Authorization": self.authorization}
