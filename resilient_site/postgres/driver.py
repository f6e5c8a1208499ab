"""psycopg with cancellable connections: what Django takes for its database driver."""

import psycopg
from psycopg import *  # noqa: F403 - stands in for the module
from psycopg import __version__  # noqa: F401

from resilient_site.postgres.connection import CancellableConnection, WaitCancelled
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State


class Connection(CancellableConnection):  # type: ignore[no-redef]
    """Connection that also stops waiting when the circuit breaker opens."""

    @classmethod
    def check(cls) -> None:
        if breakers.database.state is State.OPEN:
            raise WaitCancelled("The circuit breaker for the database is open.")
        super().check()


def connect(  # type: ignore[no-redef]
    conninfo: str = "", **options: object
) -> psycopg.Connection[object]:
    return Connection.connect(conninfo, **options)  # type: ignore[arg-type]
