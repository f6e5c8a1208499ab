"""The site and those that it is measured against, one web process each."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tests.deploy.nginx import Nginx
from tests.load.bench import places
from tests.load.request_template import RequestTemplate
from tests.load.testbed import Program, Testbed
from tests.private_server import free_port
from tests.running import ROOT, Site

OURS = "this site"
FASTAPI = "FastAPI, a dictionary"
NINJA = "Django Ninja, gunicorn"
REST = "DRF ModelViewSet, gunicorn"
REST_BY_ROW = "DRF ModelViewSet with many=True, row by row"
BARE = "bare ASGI answer"
COPY = "bare ASGI answer with this site's headers"
NGINX = "nginx's cache before this site"
# All servers have items of similar size, with numbers from 1 to this.
ITEMS = 1_000
ITEM = {"name": "Germany", "description": "A country"}
# Items in calls for many: of more, 16 at once take longer than wrk waits.
MANY = (100, 500)


@dataclass(frozen=True)
class Peer:
    """A server of a catalogue, this site or another, and its request templates."""

    port: int
    servers: Callable[[], Iterable[psutil.Process]]
    items: str = "/items/"
    slash: str = ""  # at the end of paths below items
    lookup: str = "/lookup"
    authorization: str = ""
    bulk: str = "bulk"

    def busy_s(self) -> float:
        """Return the processor time of its processes.

        That of ended processes is included in their parents.
        """
        total = 0.0
        for process in self.servers():
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def read(self, numbers: int = 1, **headers: str) -> RequestTemplate:
        """Read items by turns, up to this number."""
        item = "{n}" if numbers > 1 else "1"
        path = f"{self.items}{item}{self.slash}"
        return RequestTemplate(self.port, path, headers=headers, numbers=numbers)

    def read_authenticated(self, numbers: int = 1) -> RequestTemplate:
        return self.read(numbers, Authorization=self.authorization)

    def search(self) -> RequestTemplate:
        """A search that no cache has."""
        return RequestTemplate(self.port, f"{self.items}?search=nothing{{count}}")

    def look_up(self, numbers: int) -> RequestTemplate:
        """Look up any of so many codes."""
        return RequestTemplate(
            self.port, f"{self.lookup}?code={{any}}", numbers=numbers
        )

    def look_up_many(self, number: int, numbers: int) -> RequestTemplate:
        body = json.dumps({"codes": ["{any}"] * number})
        return RequestTemplate(self.port, self.lookup, "POST", body, numbers=numbers)

    def create(self) -> RequestTemplate:
        return self._write("POST", "", ITEM)

    def update(self, item: str = "{n}", numbers: int = ITEMS) -> RequestTemplate:
        change = ITEM | {"description": "Change {count}"}
        template = self._write("PUT", f"{item}{self.slash}", change)
        return replace(template, numbers=numbers)

    def create_many(self, number: int) -> RequestTemplate:
        return self._write("POST", f"{self.bulk}{self.slash}", [ITEM] * number)

    def _write(self, method: str, path: str, content: object) -> RequestTemplate:
        headers = {"Authorization": self.authorization}
        body = json.dumps(content)
        return RequestTemplate(self.port, self.items + path, method, body, headers)


class Running(dict[str, Peer]):
    """Peers by name. What is started here is stopped by `stack`."""

    def __init__(self, testbed: Testbed, stack: ExitStack) -> None:
        super().__init__()
        self.testbed, self.stack = testbed, stack
        self.missing: list[str] = []

    def start_site(self, *options: str, **settings: str) -> Site:
        env = self.testbed.on_postgres(WEB_PROCESSES="1", **settings)
        site = self.site = Site(Path(env["DATA_DIR"]), **env)
        token, _ = site.prepare()
        self.stack.callback(site.stop)
        site.start(*options)
        self[OURS] = Peer(
            site.port,
            lambda: [*site.processes(), *self.testbed.postgres.processes()],
            "/api/v1/items/",
            lookup="/api/v1/collections/general/lookup",
            authorization=f"Token {token}",
        )
        return site

    def fill_ours(self, items: int = ITEMS) -> None:
        rows = [f"{n},{','.join(ITEM.values())}" for n in range(1, items + 1)]
        text = "\n".join(["id,name,description", *rows])
        self.site.manage("import_items", "-", input=text, check=True)

    def start_ours(self, items: int = ITEMS, **settings: str) -> None:
        self.start_site("--no-compute", **settings)
        self.fill_ours(items)

    def start_fastapi(self) -> None:
        self[FASTAPI] = self._uvicorn("tests.load.fastapi_peer:app")

    def start_bare(self) -> None:
        self[BARE] = self._uvicorn("tests.load.bare_asgi:app")

    def start_copy(self) -> None:
        url = f"http://127.0.0.1:{self[OURS].port}{self[OURS].items}1"
        self[COPY] = self._uvicorn("tests.load.bare_asgi:app", RESPONSE_OF=url)

    def _uvicorn(self, app: str, **env: str) -> Peer:
        port = free_port()
        command = ["-m", "uvicorn", app, "--port", str(port), "--no-access-log"]
        program = self._run(self.testbed.env(**env), *command, ready="Uvicorn running")
        return Peer(port, program.processes)

    def start_django(self, items: int = ITEMS) -> None:
        """Both frameworks, in one process with eight threads."""
        url, port = self.testbed.new_database(), free_port()
        settings = "tests.load.django_peer.settings"
        env = self.testbed.env(DATABASE_URL=url, DJANGO_SETTINGS_MODULE=settings)
        prepare = ["-m", "tests.load.django_peer.prepare", str(items)]
        token = subprocess.run(
            [sys.executable, *prepare],
            cwd=ROOT, env=env, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        command = ["-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread"]
        command += ["--threads", "8", "django.core.wsgi:get_wsgi_application()"]
        program = self._run(env, *command, ready="Booting worker")

        def servers() -> list[psutil.Process]:
            return [*program.processes(), *self.testbed.postgres.processes()]

        self[REST] = Peer(port, servers, "/items/", "/", authorization=f"Token {token}")
        self[NINJA] = Peer(
            port, servers, "/ninja/items/", authorization=f"Bearer {token}"
        )

    def start_nginx(self) -> None:
        """With the site's own configuration."""
        nginx = Nginx()
        self.stack.callback(nginx.close)
        port = self[OURS].port
        nginx.serve(port, port).start()
        self[NGINX] = Peer(nginx.port, nginx.processes, self[OURS].items)

    def _run(self, env: dict[str, str], *command: str, ready: str) -> Program:
        return self.stack.enter_context(Program(env, command, ready))


@contextmanager
def running(testbed: Testbed, *starts: Callable[[Running], None]) -> Iterator[Running]:
    """Start these on the servers' cores, before all else that runs on the machine."""
    with places.separate_cores(testbed.processes()), ExitStack() as stack:
        peers = Running(testbed, stack)
        for start in starts:
            try:
                start(peers)
            except LookupError as error:
                peers.missing.append(str(error))
        places.set_priority(psutil.Process().children(recursive=True), -10)
        yield peers
