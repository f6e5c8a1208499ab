"""PostgreSQL on two machines: a primary, and a standby that may take its place.

Replication is synchronous, so that the standby has what was confirmed. Who promotes it
is an operator here, or what they use for that (Patroni, pg_auto_failover, a cloud).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.drill.machines import NETWORK, Machine
from tests.private_server import wait_for
from tests.servers import Postgres

PORT = 5432
SETTINGS = {
    "port": str(PORT),
    "unix_socket_directories": "",  # its lock would be copied with the data
    "fsync": "on",
    "full_page_writes": "on",
    "max_connections": "100",
    "max_wal_size": "128MB",
    "wal_keep_size": "64MB",
    # Or a lost standby would be noticed, and connect again, after a minute.
    "wal_sender_timeout": "3s",
    "wal_receiver_timeout": "3s",
    "wal_retrieve_retry_interval": "500ms",
}
ACCESS = f"""
host all all {NETWORK}.0/24 scram-sha-256
host replication all {NETWORK}.0/24 scram-sha-256
"""
PROMOTION_S = 20


@dataclass
class Node:
    """A server of PostgreSQL on a machine."""

    machine: Machine
    server: Postgres

    @classmethod
    def on(cls, machine: Machine, folder: Path) -> "Node":
        server = Postgres(folder, machine.address)
        access = server.dir / "access"
        access.write_text(ACCESS)
        server.port = PORT
        server.settings |= SETTINGS | {"hba_file": str(access)}
        return cls(machine, server)

    def start(self) -> None:
        with self.machine.entered():
            self.server.start()

    def copy(self, primary: Postgres) -> None:
        """Make it a standby of this primary, with none of the data it had."""
        shutil.rmtree(self.server.dir / "data", ignore_errors=True)
        with self.machine.entered():
            self.server.copy(primary)


class Replicated:
    """A primary and its standby, by their present roles."""

    def __init__(self, nodes: tuple[Machine, Machine], folder: Path) -> None:
        self.primary, self.standby = (Node.on(machine, folder) for machine in nodes)
        # As an operator would write it: the order does not change with the roles.
        self._hosts = ",".join(machine.address for machine in nodes)

    def start(self) -> None:
        self.primary.start()
        self.follow()

    def follow(self) -> None:
        """Make the standby follow the primary, which then waits for it."""
        self.standby.copy(self.primary.server)
        self.standby.start()
        self._execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._execute("SELECT pg_reload_conf()")
        state = "SELECT sync_state FROM pg_stat_replication"
        wait_for(lambda: self._execute(state) == [("sync",)])

    def promote(self) -> None:
        """Promote the standby; the primary has to be out of reach."""
        self.primary, self.standby = self.standby, self.primary
        done = self._execute(f"SELECT pg_promote(true, {PROMOTION_S})")
        if done != [(True,)]:
            raise RuntimeError(f"The standby was not promoted: {done}")

    def rejoin(self) -> None:
        """Connect the former primary again, as a standby: what it alone has is void."""
        self.standby.server.kill()
        self.standby.machine.repair()
        self.follow()

    def close(self) -> None:
        for node in (self.standby, self.primary):
            node.server.close()

    def _execute(self, statement: str) -> list[tuple[object, ...]]:
        url = self.primary.server.url()
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as server:
            cursor = server.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def url(self) -> str:
        """Return the URL by which the present primary is found."""
        hosts = f"@{self._hosts}:{PORT}/"
        url = self.primary.server.url().replace(
            f"@{self.primary.machine.address}:{PORT}/", hosts
        )
        return f"{url}?target_session_attrs=read-write"
