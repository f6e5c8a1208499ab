"""Cancellable connections to PostgreSQL: a wait for the server checks the deadline.

The look-up of the server's host name can be cancelled too; psycopg would wait for it.
"""

from collections.abc import Callable, Generator
from typing import Any, Self

import psycopg
from django.db import OperationalError
from psycopg.abc import PQGen, PQGenConn
from psycopg.pq import TransactionStatus

from resilient_site.postgres.dns import resolver
from resilient_site.resilience import deadlines

CHECK_INTERVAL_S = 0.05


class WaitCancelled(psycopg.OperationalError):
    """The server did not answer in time, and the connection is closed."""


class CommitUnknown(OperationalError):
    """The connection broke during the commit, which may have been made or not."""


class CancellableConnection(psycopg.Connection[Any]):
    """Connection that waits until the deadline; psycopg's own waits for ever."""

    @classmethod
    def check(cls) -> None:
        """Raise WaitCancelled if the wait has to end."""
        if deadlines.is_expired():
            raise WaitCancelled("The deadline of the request has passed.")

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        # A host that is a path, or several hosts, are left to psycopg.
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
                found = resolver.resolve(host, port, CHECK_INTERVAL_S)
            except TimeoutError:
                continue
            except (OSError, UnicodeError) as error:
                message = f"The host {host} could not be resolved: {error}"
                raise psycopg.OperationalError(message) from error
            return [address[0] for _, address in found]

    def wait(
        self,
        gen: PQGen[Any],
        interval: float = CHECK_INTERVAL_S,
        timeout: float | None = None,
    ) -> Any:
        try:
            return super().wait(_checked(gen, self.check), CHECK_INTERVAL_S, timeout)
        except WaitCancelled:
            # In the middle of a response: the connection cannot be used again.
            self.pgconn.finish()
            raise

    def set_autocommit(self, value: bool) -> None:
        """Set it without psycopg's wait for a server that is not asked anything."""
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self._autocommit = bool(value)
        else:
            super().set_autocommit(value)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Any]:
        return _checked(super()._connect_gen(conninfo), cls.check)


def _checked[W](
    gen: Generator[W, Any, Any], check: Callable[[], None]
) -> Generator[W, Any, Any]:
    """Run `gen`; call `check` at the start, and each time nothing was received."""
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
