"""The site as its users run it: `manage.py serve`, in processes of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.servers import free_port

ROOT = Path(__file__).parent.parent


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """One running site; `env` is all of its environment beside the paths."""

    def __init__(self, data_dir: Path, **env: str) -> None:
        self.port = free_port()
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        self.env = {name: os.environ[name] for name in kept if name in os.environ}
        self.env |= {
            "DATA_DIR": str(data_dir), "PORT": str(self.port), "WEB_PROCESSES": "1",
        } | env  # fmt: skip
        self.output_path = data_dir / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def manage(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *args],
            cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=100,
            **options,
        )  # fmt: skip

    def start(self, timeout: float = 60) -> Self:
        self.output_path.parent.mkdir(exist_ok=True)
        with open(self.output_path, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"],
                cwd=ROOT, env=self.env, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                # It listens before it can answer, so an answer is waited for.
                self.get("/api/v1/nothing")
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            else:
                return self
        self.stop()
        raise RuntimeError(f"The site did not start:\n{self.output()}")

    def output(self) -> str:
        return self.output_path.read_text()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signum)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                raise
        return self.process.wait()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 20,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
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

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, and return all that comes back."""

        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as peer:
            peer.sendall(data)
            received = b""
            while part := peer.recv(65536):
                received += part
            return received
