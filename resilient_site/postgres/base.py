"""Django's backend for PostgreSQL, which never waits longer than it may.

A server that hangs (stopped, its disk gone, behind a dead network) answers nothing,
and neither its own timeouts nor those of TCP end the wait of its clients. Here every
wait ends with the deadline of the request, when whoever asked has gone, or when the
`pulse` of the server is lost. The connection is then closed, and the server ends what
it did for it (client_connection_check_interval).
"""

import select

from django.db import DatabaseError
from django.db.backends.postgresql import base

from resilient_site.edge.cache.invalidation import invalidate_anyway
from resilient_site.postgres import driver
from resilient_site.postgres.connection import CommitUnknown


class DatabaseWrapper(base.DatabaseWrapper):
    Database = driver

    def is_usable(self) -> bool:
        """Look at the socket, which costs nothing: an idle server has nothing to say.

        What it says when it ends, and the end itself, make the socket readable.
        """
        if self.connection is None or self.connection.closed:
            return False
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    def _commit(self) -> None:
        try:
            super()._commit()  # type: ignore[misc]
        except DatabaseError as error:
            if self.connection is not None and self.connection.closed:
                invalidate_anyway()
                # Else Django connects anew, and if that fails tells of this alone.
                self.closed_in_transaction = True
                raise CommitUnknown(*error.args) from error
            raise
