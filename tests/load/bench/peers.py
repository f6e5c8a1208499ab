"""The site and those that it is measured against, one web process each."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tests.deploy.nginx import Nginx
from tests.load.bench import places
from tests.load.questions import Question
from tests.load.stand import Stand
from tests.private_server import free_port
from tests.running import MAKE_EDITOR, ROOT, Site

OURS = "this site"
FASTAPI = "FastAPI, a dictionary"
NINJA = "Django Ninja, gunicorn"
REST = "DRF ModelViewSet, gunicorn"
BARE = "bare ASGI answer"
NGINX = "nginx's cache before this site"
# All have items that are about as large, with the numbers from 1 to this.
ITEMS = 1_000
ITEM = {"name": "Germany", "description": "A country"}
BULK = 100
PRINT_TOKEN = """
from django.core.management import call_command
call_command("create_token", "edith")
"""


@dataclass(frozen=True)
class Peer:
    """A catalogue that is served, and what can be asked of it."""

    port: int
    items: str = "/items/"
    slash: str = ""  # at the end of what is below the items
    authorization: str = ""
    database: str = ""

    def read(self) -> Question:
        return Question(self.port, f"{self.items}1{self.slash}")

    def read_any(self, numbers: int) -> Question:
        return Question(self.port, f"{self.items}{{n}}{self.slash}", numbers=numbers)

    def read_signed_in(self) -> Question:
        return Question(
            self.port, f"{self.items}1{self.slash}", headers=self._signed_in
        )

    def create(self) -> Question:
        return self._write("POST", "", ITEM)

    def update(self, item: str = "{n}", numbers: int = ITEMS) -> Question:
        change = ITEM | {"description": "Change {count}"}
        question = self._write("PUT", f"{item}{self.slash}", change)
        return replace(question, numbers=numbers)

    def create_many(self) -> Question:
        return self._write("POST", f"bulk{self.slash}", [ITEM] * BULK)

    def search(self) -> Question:
        """Look for what is not there, and nobody has looked for."""
        return Question(self.port, f"{self.items}?search=nothing{{count}}")

    def _write(self, method: str, path: str, data: object) -> Question:
        path, body = self.items + path, json.dumps(data)
        return Question(self.port, path, method, body, self._signed_in)

    @property
    def _signed_in(self) -> dict[str, str]:
        return {"Authorization": self.authorization}


class Running(dict[str, Peer]):
    """Peers by name. What is started here is stopped by `stack`."""

    def __init__(self, stand: Stand, stack: ExitStack) -> None:
        super().__init__()
        self.stand, self.stack = stand, stack
        self.missing: list[str] = []
        self.site: Site | None = None

    def start_site(self, *options: str, **settings: str) -> Site:
        env = self.stand.on_postgres(WEB_PROCESSES="1", **settings)
        site = self.site = Site(Path(env["DATA_DIR"]), **env)
        shell = "shell", "-v", "0", "-c"
        made = site.manage(*shell, MAKE_EDITOR + PRINT_TOKEN, check=True)
        token = made.stdout.strip()
        self.stack.callback(site.stop)
        site.start(*options)
        self[OURS] = Peer(
            site.port, "/api/v1/items/", "", f"Token {token}", env["DATABASE_URL"]
        )
        return site

    def start_ours(self) -> None:
        self.start_site("--no-compute")
        self.fill_ours()

    def fill_ours(self) -> None:
        rows = [ITEM | {"id": number} for number in range(1, ITEMS + 1)]
        self[OURS]._write("POST", "bulk", rows).ask()

    def start_fastapi(self) -> None:
        port = self._uvicorn("tests.load.fastapi_peer:app")
        self[FASTAPI] = Peer(port)
        self[FASTAPI]._write("POST", "", ITEM | {"id": "1"}).ask()

    def start_bare(self) -> None:
        self[BARE] = Peer(self._uvicorn("tests.load.bare_asgi:app"))

    def _uvicorn(self, app: str) -> int:
        port = free_port()
        command = ["-m", "uvicorn", app, "--port", str(port), "--no-access-log"]
        self._run(self.stand.env(), *command, ready="Uvicorn running")
        return port

    def start_django(self) -> None:
        """Both frameworks, in one process with eight threads."""
        url, port = self.stand.new_database(), free_port()
        settings = "tests.load.django_peer.settings"
        env = self.stand.env(DATABASE_URL=url, DJANGO_SETTINGS_MODULE=settings)
        prepare = ["-m", "tests.load.django_peer.prepare", str(ITEMS)]
        token = subprocess.run(
            [sys.executable, *prepare],
            cwd=ROOT, env=env, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        command = ["-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread"]
        command += ["--threads", "8", "tests.load.django_peer.wsgi"]
        self._run(env, *command, ready="Booting worker")
        self[REST] = Peer(port, "/items/", "/", f"Token {token}", url)
        self[NINJA] = Peer(port, "/ninja/items/", "", f"Bearer {token}", url)

    def start_nginx(self) -> None:
        """With the site's own configuration."""
        nginx = Nginx()
        self.stack.callback(nginx.close)
        port = self[OURS].port
        nginx.serve(port, port).start()
        self[NGINX] = Peer(nginx.port, self[OURS].items)

    def _run(self, env: dict[str, str], *command: str, ready: str) -> None:
        self.stack.enter_context(self.stand.program(env, *command, ready=ready))


@contextmanager
def running(stand: Stand, *starts: Callable[[Running], None]) -> Iterator[Running]:
    """Start these on the servers' cores, before all else that runs on the machine."""
    with places.apart(stand.processes()), ExitStack() as stack:
        peers = Running(stand, stack)
        for start in starts:
            try:
                start(peers)
            except LookupError as error:
                peers.missing.append(str(error))
        places.rank(psutil.Process().children(recursive=True), -10)
        yield peers
