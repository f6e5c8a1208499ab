"""The site and those that it is measured against, one web process each."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.deploy.nginx import Nginx
from tests.load.bench import places
from tests.load.bench.peer import (
    BARE,
    FASTAPI,
    ITEM,
    ITEMS,
    NGINX,
    NINJA,
    OURS,
    REST,
    Peer,
)
from tests.load.testbed import Program, Testbed
from tests.private_server import free_port
from tests.running import MAKE_EDITOR, ROOT, Site

PRINT_TOKEN = """
from django.core.management import call_command
call_command("create_token", "edith")
"""


class Running(dict[str, Peer]):
    """Peers by name. What is started here is stopped by `stack`."""

    def __init__(self, testbed: Testbed, stack: ExitStack) -> None:
        super().__init__()
        self.testbed, self.stack = testbed, stack
        self.missing: list[str] = []
        self.site: Site | None = None

    def start_site(self, *options: str, **settings: str) -> Site:
        env = self.testbed.on_postgres(WEB_PROCESSES="1", **settings)
        site = self.site = Site(Path(env["DATA_DIR"]), **env)
        shell = "shell", "-v", "0", "-c"
        made = site.manage(*shell, MAKE_EDITOR + PRINT_TOKEN, check=True)
        token = made.stdout.strip()
        self.stack.callback(site.stop)
        site.start(*options)
        self[OURS] = Peer(
            site.port,
            lambda: [*site.processes(), *self.testbed.postgres.processes()],
            "/api/v1/items/",
            authorization=f"Token {token}",
            database=env["DATABASE_URL"],
        )
        return site

    def start_ours(self, items: int = ITEMS) -> None:
        site = self.start_site("--no-compute")
        if items == ITEMS:
            self.fill_ours()
            return
        rows = (
            f"{n},{ITEM['name']},{ITEM['description']}" for n in range(1, items + 1)
        )
        text = "\n".join(["id,name,description", *rows])
        site.manage("import_items", "-", input=text, check=True)

    def fill_ours(self) -> None:
        rows = [ITEM | {"id": number} for number in range(1, ITEMS + 1)]
        self[OURS].write("POST", "bulk", rows).send()

    def start_fastapi(self) -> None:
        self[FASTAPI] = self._uvicorn("tests.load.fastapi_peer:app")
        self[FASTAPI].write("POST", "", ITEM | {"id": "1"}).send()

    def start_bare(self) -> None:
        self[BARE] = self._uvicorn("tests.load.bare_asgi:app")

    def _uvicorn(self, app: str) -> Peer:
        port = free_port()
        command = ["-m", "uvicorn", app, "--port", str(port), "--no-access-log"]
        program = self._run(self.testbed.env(), *command, ready="Uvicorn running")
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
        command += ["--threads", "8", "tests.load.django_peer.wsgi"]
        program = self._run(env, *command, ready="Booting worker")

        def servers() -> list[psutil.Process]:
            return [*program.processes(), *self.testbed.postgres.processes()]

        self[REST] = Peer(port, servers, "/items/", "/", f"Token {token}", url)
        self[NINJA] = Peer(port, servers, "/ninja/items/", "", f"Bearer {token}", url)

    def start_nginx(self) -> None:
        """With the site's own configuration."""
        nginx = Nginx()
        self.stack.callback(nginx.close)
        port = self[OURS].port
        nginx.serve(port, port).start()
        self[NGINX] = Peer(nginx.port, nginx.processes, self[OURS].items)

    def _run(self, env: dict[str, str], *command: str, ready: str) -> Program:
        program = self.testbed.program(env, *command, ready=ready)
        return self.stack.enter_context(program)


@contextmanager
def running(testbed: Testbed, *starts: Callable[[Running], None]) -> Iterator[Running]:
    """Start these on the servers' cores, before all else that runs on the machine."""
    with places.apart(testbed.processes()), ExitStack() as stack:
        peers = Running(testbed, stack)
        for start in starts:
            try:
                start(peers)
            except LookupError as error:
                peers.missing.append(str(error))
        places.rank(psutil.Process().children(recursive=True), -10)
        yield peers
