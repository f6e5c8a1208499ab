"""Stack under test: the site as in production, on private servers."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.deploy.nginx import Nginx
from tests.drill.clients import ITEMS, JOBS, LIST, DrillClients
from tests.drill.history import (
    Findings,
    History,
    check_changes,
    check_events,
    check_items,
    check_jobs,
)
from tests.events import Consumer
from tests.faults.proxy import Proxy
from tests.private_server import LOOPBACK, Server, wait_for
from tests.running import Site
from tests.servers import Postgres, RabbitMQ, Redis

DISK_BYTES = 600 * 1024**2
COMPUTE_PROCESSES = 2
KNOWN_ITEMS = 40
UNFINISHED = ("queued", "running")
JOBS_END_S = 60
EVENTS_END_S = 20
# All load comes from one address: requests are counted, but no limit is reached.
RATES = "anonymous-read read anonymous-write write anonymous-heavy heavy unproven-token"
SETTINGS = {
    "SECRET_KEY": "the-drill-of-the-site-" * 3,
    "HTTPS": "0",
    "RATE_LIMITS": ",".join(f"{name}=1000000/s" for name in RATES.split()),
    "COMPUTE_TASKS": "tests.compute.faults",
    # As deploy/systemd/environment has it.
    "DEADLINE_READ_S": "4",
    "PROMETHEUS_MULTIPROC_DIR": "",  # the default: not on the disk that fills
}
# Settings that disable a mechanism.
OFF = {
    "edge": {
        "READ_CACHE": "0",
        "LAST_KNOWN_BYTES": "0",
        "LAST_KNOWN_REDIS_BYTES": "0",
        "ADMISSION": "0",
    },
    "breakers": {},  # held closed by a file
    "cache": {"REDIS_URL": "", "CACHE_MEMORY_BYTES": "0"},
    "admission": {"ADMISSION": "0"},
}


class Disk:
    """A folder on a small file system, which can be filled; if mounting is allowed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        size = f"size={DISK_BYTES}"
        self.is_small = _run("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder))
        # Servers run as the user nobody.
        folder.chmod(0o755)
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        piece = b"\0" * 2**20
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while file.write(piece):
                pass

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        if self.is_small:
            _run("umount", "--lazy", str(self.folder))


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Stack:
    """nginx, two gunicorns with a web process each, the pool, the event relay.

    They run on private servers for the duration of `with stack.running()`.
    """

    def __init__(self, without: str = "") -> None:
        self.without = without
        self.name = f"without {without}" if without else "ours"
        self.host = LOOPBACK
        # Parts that the machine lacks.
        self.missing: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as cleanup:
            self.cleanup = cleanup
            folder = Path(tempfile.mkdtemp(prefix="rs-drill-"))
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            self.disk = Disk(folder)
            cleanup.callback(self.disk.close)
            self.postgres, self.redis = Postgres(self.disk.folder), Redis()
            self.postgres.settings |= {
                "fsync": "on",
                "full_page_writes": "on",
                "max_connections": "60",
                "max_wal_size": "128MB",
            }
            for server in (self.postgres, self.redis):
                cleanup.callback(server.close)
                server.start()
            self.to_redis = Proxy(self.redis.port)
            cleanup.callback(self.to_redis.close)
            # What is between them costs time, so it is for the faults that need it.
            self.to_postgres = Proxy(self.postgres.port)
            cleanup.callback(self.to_postgres.close)
            self._start_site(cleanup)
            yield

    def _start_site(self, cleanup: ExitStack) -> None:
        data = self.disk.folder / "site"
        data.mkdir(mode=0o700)
        env = self.environment()
        if self.without == "breakers":
            held = dict.fromkeys(("cache", "database", "broker"), {"state": "closed"})
            (data / "breakers.json").write_text(json.dumps(held))
        with ThreadPoolExecutor(1) as beside:
            prepared = beside.submit(Site(data, **env).fill)
            self._start_broker(cleanup)
            self.token, self.session = prepared.result()
        if self.rabbitmq:
            env["EVENTS_URL"] = self.rabbitmq.url()
        first = Site(data, **env)
        self.sites = [first]
        self.nginx = self._create_if_installed(Nginx)
        if self.nginx:
            cleanup.callback(self.nginx.close)
            self.sites.append(Site(data, **env))
        else:
            first.env["WEB_PROCESSES"] = "2"
        for site in self.sites:
            cleanup.callback(site.stop)
            site.output_path = data / f"output-{site.port}"
        first.env["COMPUTE_PROCESSES"] = str(COMPUTE_PROCESSES)
        first.start()
        for site in self.sites[1:]:
            site.start_web()
        if self.nginx:
            self.nginx.serve(*(site.port for site in self.sites)).start()
        # Where clients connect.
        self.port = (self.nginx or first).port
        self._mark_start()

    def _mark_start(self) -> None:
        """Remember where this drill starts in the change log."""
        self._begin = self._get("/api/v1/changes?since=now")["next"]

    def _start_broker(self, cleanup: ExitStack) -> None:
        self.rabbitmq = self._create_if_installed(RabbitMQ)
        if self.rabbitmq is None:
            return
        cleanup.callback(self.rabbitmq.close)
        self.rabbitmq.start()
        self._receive_events(cleanup)

    def _receive_events(self, cleanup: ExitStack) -> None:
        self.events = Consumer(self.rabbitmq.url(), heartbeat_s=2)
        cleanup.callback(self.events.close)

    def environment(self) -> dict[str, str]:
        return (
            SETTINGS
            | {
                "DATABASE_URL": self.postgres.url(),
                "REDIS_URL": f"redis://127.0.0.1:{self.to_redis.port}/0",
                "ALLOWED_HOSTS": "127.0.0.1",
                "RECORD": str(self.disk.folder / "record"),
            }
            | OFF.get(self.without, {})
        )

    def _create_if_installed[S: Server](self, kind: Callable[[], S]) -> S | None:
        """Return a server; None, and a note, if the machine has no such program."""
        try:
            return kind()
        except LookupError as error:
            self.missing.append(str(error))
            return None

    def put_network_before_postgres(self) -> bool:
        """Have the database be used through `to_postgres`.

        Return whether the sites were restarted for it.
        """
        direct, port = self.postgres.url(), self.to_postgres.port
        url = direct.replace(f":{self.postgres.port}/", f":{port}/")
        others = [site for site in self.sites if site.env["DATABASE_URL"] != url]
        for site in reversed(others):
            site.stop()
            site.env["DATABASE_URL"] = url
            site.start() if site is self.sites[0] else site.start_web()
        return bool(others)

    def web_processes(self) -> list[psutil.Process]:
        workers = self.sites[0].web_workers()
        for site in self.sites[1:]:
            workers += psutil.Process(site.process.pid).children()
        return workers

    def output(self) -> str:
        """Return its log, in lines of JSON."""
        return "".join(site.output() for site in self.sites)

    def history(self) -> History:
        """Return a history with the items that clients may read."""
        items = islice(self._pages(LIST), KNOWN_ITEMS)
        return History({str(item["id"]): item["name"] for item in items})

    def check(self, found: Findings, clients: DrillClients) -> None:
        """Compare the history with the stored state, after the load."""
        found.wrong_answers += clients.history.wrong
        items = self._pages(f"{ITEMS}?search={clients.run_id}")
        check_items(found, clients.history, items)
        changes = [
            change
            for change in self._pages(self._begin)
            if clients.run_id in (change["after"] or {}).get("name", "")
        ]
        check_changes(found, clients.history, changes)
        with suppress(TimeoutError):
            wait_for(lambda: not any(map(self._jobs, UNFINISHED)), JOBS_END_S)
        jobs = self._pages(f"{JOBS}?task=heavy_computation&page_size=200")
        check_jobs(
            found, clients.submitted, jobs,
            lambda job_id: self._get(f"{JOBS}{job_id}")["result"],
        )  # fmt: skip
        if self.rabbitmq:
            last = str(changes[-1]["item_id"]), changes[-1]["version"]

            def has_arrived() -> bool:
                events = self.events.bodies
                return last in [(e["subject"], e["data"]["version"]) for e in events]

            with suppress(TimeoutError):
                wait_for(has_arrived, EVENTS_END_S)
            check_events(found, changes, list(self.events.bodies))

    def _jobs(self, state: str) -> list[dict[str, Any]]:
        return self._get(f"{JOBS}?state={state}")["results"]

    def _pages(self, url: str) -> Iterator[dict[str, Any]]:
        """Yield the results of all pages, the first at this URL."""
        while url:
            page = self._get(url)
            yield from page["results"]
            # The change feed has always a next one.
            url = page["results"] and page["next"]

    def _get(self, url: str) -> Any:
        """Return what is at a path or URL of the site, not through nginx."""
        parts = urlsplit(url)
        headers = {"Authorization": f"Token {self.token}"}
        answer = self.sites[0].get(f"{parts.path}?{parts.query}", **headers)
        if answer.status != 200:
            raise RuntimeError(f"{url}: {answer.status} {answer.body!r}")
        return answer.json()
