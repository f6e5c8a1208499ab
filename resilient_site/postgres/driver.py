"""psycopg, with connections that can be given up: what Django takes for its driver."""

import psycopg
from psycopg import *  # noqa: F403 - stands in for the module
from psycopg import __version__  # noqa: F401

from resilient_site.postgres.connection import GivenUp, PatientConnection
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State


class Connection(PatientConnection):  # type: ignore[no-redef]
    """Waits while the server is alive and the request has time."""

    @classmethod
    def check(cls) -> None:
        if breakers.database.state is State.OPEN:
            raise GivenUp("The database is left alone, as it does not answer.")
        super().check()


def connect(  # type: ignore[no-redef]
    conninfo: str = "", **options: object
) -> psycopg.Connection[object]:
    return Connection.connect(conninfo, **options)  # type: ignore[arg-type]
