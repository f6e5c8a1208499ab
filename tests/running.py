"""The site as people run it: `manage.py serve`, in processes of its own."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from compute.pool.process_tree import parent_of
from tests.private_server import LOOPBACK, free_port, has_ended, wait_for

ROOT = Path(__file__).parent.parent

# What `manage.py serve` does on its first start: a few seconds.
PREPARE = """
from django.core.management import call_command
from resilient_site.management.commands.serve import Command
Command()._prepare()
call_command("create_token", "admin")
"""
# The same for a database server, without the sample; prints a session and a token.
MIGRATE = """
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
client = Client()
client.force_login(User.objects.create_superuser("ada"))
print(client.session.session_key)
call_command("create_token", "ada")
"""
LOAD_SAMPLE = """
from io import StringIO
call_command("load_sample", stdout=StringIO())
"""


@functools.cache
def first_start() -> Path:
    """Return a folder with what the first start on the embedded default makes.

    The workers of a run share it.
    """
    folder = Path(os.environ["FIRST_START"])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "token").exists():
            done = Site(folder).manage("shell", "-v0", "-c", PREPARE)
            assert done.returncode == 0, done.stderr
            assert not (folder / "site.sqlite3-wal").exists()  # all is in one file
            (folder / "token").write_text(done.stdout.split()[-1])
    return folder


def admin_token() -> str:
    """Return a token of the administrator, valid on each copy of the first start."""
    return (first_start() / "token").read_text()


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """One running site; `env` is its whole environment but for the paths."""

    def __init__(self, data_dir: Path, host: str = LOOPBACK, **env: str) -> None:
        self.host, self.port = host, free_port()
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        self.env = {name: os.environ[name] for name in kept if name in os.environ}
        self.env |= {
            "DATA_DIR": str(data_dir), "PORT": str(self.port),
            "PROMETHEUS_MULTIPROC_DIR": str(data_dir / "metrics"),
            "WEB_PROCESSES": "1", "COMPUTE_PROCESSES": "1",
            "DJANGO_SETTINGS_MODULE": "resilient_site.settings",
            "PYTHONPATH": str(ROOT / "tests/production"),
        } | env  # fmt: skip
        self.output_path = data_dir / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def manage(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *args],
            cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=150,
            **options,
        )  # fmt: skip

    def prepare(self, before: str = "", after: str = "") -> tuple[str, str]:
        """Make the tables; return the administrator's token and session."""
        done = self.manage("shell", "-v0", "-c", before + MIGRATE + after)
        if done.returncode:
            raise RuntimeError(done.stderr)
        session, token = done.stdout.split()
        return token, session

    def fill(self, before: str = "") -> tuple[str, str]:
        """Do the same, and load the sample."""
        return self.prepare(before, LOAD_SAMPLE)

    @classmethod
    def on_postgres(cls, url: str, folder: Path, **env: str) -> tuple[Self, str, str]:
        """Return a site with new tables, and its administrator's token and session."""
        site = cls(
            folder, DATABASE_URL=url, SECRET_KEY="tests-of-a-site-" * 4, HTTPS="0",
            ALLOWED_HOSTS="localhost,127.0.0.1", **env,
        )  # fmt: skip
        folder.mkdir(exist_ok=True)
        return site, *site.prepare()

    def start(
        self, *options: str, timeout: float = 150, for_the_first_time: bool = False
    ) -> Self:
        """Start it, on a copy of a first start unless it is to be the first one."""
        self._make_folder(is_filled=not for_the_first_time)
        serve = [sys.executable, "manage.py", "serve", *options]
        return self._run_in_folder(serve, timeout)

    def start_web(self, timeout: float = 150, **popen: Any) -> Self:
        """Start the web processes alone, as deploy/systemd does; this is faster."""
        self._make_folder(is_filled=True)
        bind = f"{self.host}:{self.port}"
        command = "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "-b", bind
        return self._run_in_folder([sys.executable, *command], timeout, **popen)

    def _run_in_folder(self, command: list[str], timeout: float, **popen: Any) -> Self:
        with open(self.output_path, "ab") as output:
            popen |= {"cwd": ROOT, "stdout": output, "stderr": output}
            return self.run(command, timeout, **popen)

    def _make_folder(self, is_filled: bool) -> None:
        data_dir = Path(self.env["DATA_DIR"])
        data_dir.mkdir(exist_ok=True)
        if not is_filled or "DATABASE_URL" in self.env:
            return
        for name in ("site.sqlite3", "secret_key"):
            if not (data_dir / name).exists():
                shutil.copy(first_start() / name, data_dir)

    def run(self, command: list[str], timeout: float = 150, **popen: Any) -> Self:
        """Start it in any way that ends in `serve`, and wait until it answers."""
        # A session of its own, by which all its processes are known.
        self.process = subprocess.Popen(
            command, env=self.env, start_new_session=True, **popen
        )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.answers():
                return self
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"The site did not start:\n{self.output()}")

    def answers(self) -> bool:
        try:
            # It listens before it can answer, so an answer is waited for.
            self.get("/api/v1/nothing")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def is_whole(self) -> bool:
        """Return whether it has all but workers, and hears what others change."""
        is_ready = self.get("/readyz").body in (b"ok\n", b"ok, but degraded: compute\n")
        return is_ready and self.hears_others()

    def hears_others(self) -> bool:
        return b"redis_subscribed 1.0" in self.get("/metrics").body

    def output(self) -> str:
        return self.output_path.read_text()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Stop it, and wait until the last of its processes has ended."""
        if self.process is None:
            return 0
        try:
            if self.process.poll() is None:
                self.process.send_signal(signum)
            self.process.wait(90)
            wait_for(lambda: not self.processes())
        finally:
            self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """Kill all of its processes."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            self.process.wait(60)

    def processes(self) -> list[psutil.Process]:
        """List its processes, orphans included."""
        if self.process is None:
            return []
        ours = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.process.pid:
                    ours.append(process)
        return [process for process in ours if not has_ended(process)]

    def _having(self, name: str) -> list[psutil.Process]:
        return [process for process in self.processes() if _name(process) == name]

    def supervisor(self) -> psutil.Process:
        # A process that it has just forked looks the same.
        return min(self._having("serve"), key=psutil.Process.create_time)

    def web_master(self) -> psutil.Process:
        """Return gunicorn's master; waits for it if it has just died."""
        return self._child_of_supervisor("gunicorn")

    def web_workers(self) -> list[psutil.Process]:
        return _children(self.web_master())

    def compute(self) -> psutil.Process:
        """Return the supervisor of the pool; waits for it if it has just died."""
        return self._child_of_supervisor("compute")

    def pool(self) -> list[psutil.Process]:
        """Return the processes that run jobs, which the fork server forks."""
        server = [p for p in _children(self.compute()) if _name(p) == "fork-server"]
        return [process for parent in server for process in _children(parent)]

    def _child_of_supervisor(self, name: str) -> psutil.Process:
        parent = self.supervisor().pid
        return wait_for(
            lambda: next(
                (p for p in self._having(name) if parent_of(p.pid) == parent), None
            )
        )

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(
                method,
                path,
                raw,
                {"Content-Type": "application/json"} | (headers or {}),
            )
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def raw(self, data: bytes, source: str = "") -> bytes:
        """Send bytes unchanged, and return the whole response."""
        server, client = (self.host, self.port), (source, 0)
        with socket.create_connection(server, 90, client) as peer:
            peer.sendall(data)
            received = b""
            while part := peer.recv(65536):
                received += part
            return received


def _command(process: psutil.Process) -> list[str]:
    """Return its command line; none of a process that has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children()
    return []
