"""psycopg, with connections that can be given up: what Django takes for its driver."""

import psycopg
from psycopg import *  # noqa: F403 - stands in for the module
from psycopg import __version__  # noqa: F401

from resilient_site.postgres.pulse import pulse
from resilient_site.postgres.waiting import GivenUp, PatientConnection


class Connection(PatientConnection):  # type: ignore[no-redef]
    """Waits while the server is alive and the request has time."""

    @classmethod
    def check(cls) -> None:
        if pulse.is_away:
            raise GivenUp(f"The database does not answer: {pulse.error}")
        super().check()


def connect(  # type: ignore[no-redef]
    conninfo: str = "", **options: object
) -> psycopg.Connection[object]:
    return Connection.connect(conninfo, **options)  # type: ignore[arg-type]
