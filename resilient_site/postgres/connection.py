"""Connections that look, while they wait for the server, whether to go on waiting.

So do they while its name is looked up, for which psycopg would wait.
"""

from collections.abc import Callable, Generator
from typing import Any, Self

import psycopg
from django.db import OperationalError
from psycopg.abc import PQGen, PQGenConn
from psycopg.pq import TransactionStatus

from resilient_site.postgres.dns import resolver
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

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        # A host that is a path, or several, is as psycopg has it.
        host = str(options.get("host") or "")
        if host and not {"/", ","} & set(host) and "hostaddr" not in options:
            addresses = cls._addresses(host, int(options.get("port") or 5432))
            options["host"] = ",".join([host] * len(addresses))
            options["hostaddr"] = ",".join(addresses)
        return super().connect(conninfo, **options)

    @classmethod
    def _addresses(cls, host: str, port: int) -> list[str]:
        while True:
            cls.check()
            try:
                found = resolver.current(host, port, LOOK_S)
            except TimeoutError:
                continue
            except (OSError, UnicodeError) as error:
                message = f"The host {host} is not known: {error}"
                raise psycopg.OperationalError(message) from error
            return [address[0] for _, address in found]

    def wait(
        self, gen: PQGen[Any], interval: float = LOOK_S, timeout: float | None = None
    ) -> Any:
        try:
            return super().wait(_watched(gen, self.check), LOOK_S, timeout)
        except GivenUp:
            # In the middle of an answer: of no use to anybody any more.
            self.pgconn.finish()
            raise

    def set_autocommit(self, value: bool) -> None:
        """As psycopg's, which waits for the server though it asks it nothing."""
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self._autocommit = bool(value)
        else:
            super().set_autocommit(value)

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
