"""Connections that look, while they wait for the server, whether to go on waiting."""

from collections.abc import Callable, Generator
from typing import Any

import psycopg
from django.db import OperationalError
from psycopg.abc import PQGen, PQGenConn

from resilient_site.resilience import deadlines

# So often a wait looks whether it may go on.
LOOK_S = 0.05


class GivenUp(psycopg.OperationalError):
    """The server was waited for in vain, and the connection is closed."""


class CommitUnknown(OperationalError):
    """The connection broke while the server committed: it may be done or not."""


class PatientConnection(psycopg.Connection[Any]):
    """Waits until the deadline; psycopg's own waits as long as the server is silent."""

    @classmethod
    def check(cls) -> None:
        """Raise GivenUp if nothing is to be waited for."""
        if deadlines.is_over():
            raise GivenUp("The time that the request had is up.")

    def wait(
        self, gen: PQGen[Any], interval: float = LOOK_S, timeout: float | None = None
    ) -> Any:
        try:
            return super().wait(_watched(gen, self.check), LOOK_S, timeout)
        except GivenUp:
            # In the middle of an answer: of no use to anybody any more.
            self.pgconn.finish()
            raise

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Any]:
        return _watched(super()._connect_gen(conninfo), cls.check)


def _watched[W](
    gen: Generator[W, Any, Any], check: Callable[[], None]
) -> Generator[W, Any, Any]:
    """Go on with `gen` unless `check` raises: at first, and whenever nothing came."""
    check()
    try:
        wait = next(gen)
        while True:
            ready = yield wait
            if not ready:
                check()
            wait = gen.send(ready)
    except StopIteration as end:
        return end.value
