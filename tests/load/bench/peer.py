"""A catalogue that is served, by this site or another, and what can be asked of it."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from tests.load.questions import Question

OURS = "this site"
FASTAPI = "FastAPI, a dictionary"
NINJA = "Django Ninja, gunicorn"
REST = "DRF ModelViewSet, gunicorn"
BARE = "bare ASGI answer"
NGINX = "nginx's cache before this site"
# All have items that are about as large, with the numbers from 1 to this.
ITEMS = 1_000
ITEM = {"name": "Germany", "description": "A country"}
BULK = 100


@dataclass(frozen=True)
class Peer:
    port: int
    servers: Callable[[], Iterable[psutil.Process]]
    items: str = "/items/"
    slash: str = ""  # at the end of what is below the items
    authorization: str = ""
    database: str = ""

    def busy_s(self) -> float:
        """Return how much processor time those who serve it have used.

        That of processes that have ended is in the times of their parents.
        """
        total = 0.0
        for process in self.servers():
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def read(self) -> Question:
        return Question(self.port, f"{self.items}1{self.slash}")

    def read_any(self, numbers: int) -> Question:
        return Question(self.port, f"{self.items}{{n}}{self.slash}", numbers=numbers)

    def read_signed_in(self) -> Question:
        return replace(self.read(), headers=self._signed_in)

    def search(self) -> Question:
        """Look for what is not there, and nobody has looked for."""
        return Question(self.port, f"{self.items}?search=nothing{{count}}")

    def create(self) -> Question:
        return self.write("POST", "", ITEM)

    def update(self, item: str = "{n}", numbers: int = ITEMS) -> Question:
        change = ITEM | {"description": "Change {count}"}
        question = self.write("PUT", f"{item}{self.slash}", change)
        return replace(question, numbers=numbers)

    def create_many(self) -> Question:
        return self.write("POST", f"bulk{self.slash}", [ITEM] * BULK)

    def write(self, method: str, path: str, data: object) -> Question:
        path, body = self.items + path, json.dumps(data)
        return Question(self.port, path, method, body, self._signed_in)

    @property
    def _signed_in(self) -> dict[str, str]:
        return {"Authorization": self.authorization}
