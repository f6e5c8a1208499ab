"""Stack of many machines: each part of the site in a network namespace of its own."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.deploy.nginx import Nginx
from tests.drill.machines import Machine, Network
from tests.drill.replication import Replicated
from tests.drill.stack import COMPUTE_PROCESSES, SETTINGS, Stack
from tests.private_server import Server
from tests.running import Site
from tests.servers import RabbitMQ, Redis

# How often nginx's machine sends again what is not acknowledged: for three seconds, in
# place of a quarter of an hour, as deploy/README.md has it.
TCP_RETRIES = 2


class Command(Site):
    """A command of manage.py that serves no requests; it is ready when it `says` so."""

    def __init__(self, name: str, says: str, data_dir: Path, **env: str) -> None:
        super().__init__(data_dir, **env)
        self.name, self.says = name, says
        self.output_path = data_dir / f"output-{name}"

    def start(self) -> Self:
        self._make_folder(is_filled=False)
        return self._run_in_folder([sys.executable, "manage.py", self.name], timeout=60)

    def answers(self) -> bool:
        return self.says in self.output()


class MachinesStack(Stack):
    """nginx, two web machines, two workers, PostgreSQL twice, Redis and RabbitMQ.

    The clients are on a machine, too. A small one has web machines, databases and Redis
    alone.
    """

    def __init__(self, is_small: bool = False) -> None:
        super().__init__()
        self.name, self.is_small = "many machines", is_small
        self.rabbitmq = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raise Unavailable where there can be no such machines."""
        with ExitStack() as self.cleanup:
            self.network = Network()
            self.cleanup.callback(self.network.close)
            self.machines: dict[str, Machine] = {}
            self.folder = self.network.folder
            self.cleanup.enter_context(self.machine("clients").entered())
            self._start_servers()
            self._start_site()
            yield

    def machine(self, name: str) -> Machine:
        """Return the machine of this name, made when it is first asked for."""
        if name not in self.machines:
            self.machines[name] = self.network.add(name)
        return self.machines[name]

    def _start_servers(self) -> None:
        nodes = self.machine("postgres-1"), self.machine("postgres-2")
        self.database = Replicated(nodes, self.folder)
        self.cleanup.callback(self.database.close)
        self.database.start()
        self.redis = self._start_server("redis", Redis)
        if not self.is_small:
            self.rabbitmq = self._create_if_installed(
                lambda: self._start_server("rabbitmq", RabbitMQ)
            )

    def _start_server[S: Server](self, name: str, kind: Callable[..., S]) -> S:
        machine = self.machine(name)
        server = kind(folder=self.folder, host=machine.address)
        self.cleanup.callback(server.close)
        with machine.entered():
            return server.start()

    def _start_site(self) -> None:
        prepared = Site(self._folder("clients"), **self.environment())
        self.token, self.session = prepared.fill()
        if self.rabbitmq:
            self._receive_events(self.cleanup)
        self.sites, self.workers = [], {}
        for name in ("web-1", "web-2"):
            machine = self.machine(name)
            env = self.environment()
            self.sites.append(Site(self._folder(name), machine.address, **env))
            self.cleanup.callback(self.sites[-1].stop)
            self.start_web(self.sites[-1])
        if not self.is_small:
            for name in ("worker-1", "worker-2"):
                self._start_worker(name)
            self._start_nginx()
            self._mark_start()

    def _folder(self, name: str) -> Path:
        """Return the DATA_DIR of a machine."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        return folder

    def start_web(self, site: Site) -> None:
        with self.machine_of(site).entered():
            site.start_web()

    def machine_of(self, site: Site) -> Machine:
        return next(m for m in self.machines.values() if m.address == site.host)

    def start_worker(self, name: str) -> None:
        """Start the pool of a machine, and the relay if there is a broker."""
        with self.machine(name).entered():
            for command in self.workers[name]:
                command.start()

    def _start_worker(self, name: str) -> None:
        data = self._folder(name)
        env = self.environment() | {"COMPUTE_PROCESSES": str(COMPUTE_PROCESSES)}
        self.workers[name] = [Command("compute", "waiting for jobs", data, **env)]
        if self.rabbitmq:
            relay = Command("relay_events", "Events are published", data, **env)
            self.workers[name].append(relay)
        for command in self.workers[name]:
            self.cleanup.callback(command.stop)
        self.start_worker(name)

    def _start_nginx(self) -> None:
        machine = self.machine("nginx")
        machine.set_sysctl("net.ipv4.tcp_retries2", TCP_RETRIES)
        self.nginx = Nginx(self.folder, machine.address)
        self.cleanup.callback(self.nginx.close)
        ports, hosts = zip(*((s.port, s.host) for s in self.sites), strict=True)
        self.nginx.serve(*ports, hosts=hosts)
        with machine.entered():
            self.nginx.start()
        self.host, self.port = self.nginx.host, self.nginx.port

    def environment(self) -> dict[str, str]:
        hosts = [self.machine(name).address for name in ("web-1", "web-2")]
        # In a small one a busy machine has not failed; the drill has the usual limit.
        patience = {"HEARTBEAT_TIMEOUT_S": "3"} if self.is_small else {}
        return (
            SETTINGS
            | patience
            | {
                "DATABASE_URL": self.database.url(),
                "REDIS_URL": self.redis.url(),
                "EVENTS_URL": self.rabbitmq.url() if self.rabbitmq else "",
                "ALLOWED_HOSTS": ",".join(["127.0.0.1", *hosts]),
                "FORWARDED_ALLOW_IPS": self.machine("nginx").address,
                "METRICS_ALLOW": self.machine("clients").address,
                "RECORD": str(self.folder / "record"),
            }
        )

    def output(self) -> str:
        commands = (one for worker in self.workers.values() for one in worker)
        return "".join(one.output() for one in (*self.sites, *commands))
