"""nginx with the configuration of deploy/, in a folder and without root."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.private_server import DEMOTE, LOOPBACK, Server, free_port
from tests.running import ROOT, Site
from tests.servers import _which

CONFIG = ROOT / "deploy" / "nginx"

MAIN = "worker_processes auto;\npid nginx.pid;\nerror_log error.log info;\n"
# Its own folders may belong to root, or not be there before root has started it once.
FOLDERS = """
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
"""
HTTP = f"""{FOLDERS}
access_log access.log json;
proxy_cache_path cache levels=1:2 keys_zone=answers:1m max_size=50m inactive=24h
    use_temp_path=off;
limit_req_zone $client_network zone=requests:1m rate=1r/m;
"""
SERVERS = """
server {{
    listen {host}:{port};
    root public;
    include site/locations.conf;
}}
server {{
    listen 127.0.0.1:{narrow};
    limit_req zone=requests burst=3 nodelay;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Client;
    root public;
    include site/locations.conf;
}}
server {{
    listen 127.0.0.1:{secure} ssl http2;
    include site/tls.conf;
    ssl_certificate certificate.pem;
    ssl_certificate_key key.pem;
    root public;
    include site/locations.conf;
}}
server {{
    listen 127.0.0.1:{status};
    include site/status.conf;
}}
"""


class Door(Site):
    """nginx as its clients see it: Site's requests, without its processes."""

    def __init__(self, port: int) -> None:
        self.host, self.port = "127.0.0.1", port


class Nginx(Server):
    """Listens on three ports: with wide limits, with narrow ones, and with TLS."""

    name = "nginx"
    stop_signal = signal.SIGTERM
    # For how long it waits for the answer to a read, before it asks another process.
    read_timeout_s = 4.5

    def __init__(self, folder: Path | None = None, host: str = LOOPBACK) -> None:
        self.exe = _which("nginx", "nginx")
        super().__init__(folder, host)
        self.narrow, self.secure, self.status = free_port(), free_port(), free_port()
        self.public = self.dir / "public"
        self.config = self.dir / "conf"

    def serve(self, *ports: int, hosts: Sequence[str] = (LOOPBACK, LOOPBACK)) -> Self:
        """Write machine/ so that everything is below one folder."""
        shutil.copytree(CONFIG, self.config, dirs_exist_ok=True)
        upstream = (CONFIG / "machine" / "upstream.conf").read_text()
        given = "127.0.0.1:8001", "127.0.0.1:8002"
        for place, host, port in zip(given, hosts, ports, strict=True):
            upstream = upstream.replace(f"{place} ", f"{host}:{port} ")
        doors = {name: getattr(self, name) for name in ("port", "narrow", "secure")}
        for name, text in {
            "main": MAIN,
            "http": HTTP,
            "upstream": upstream,
            "servers": SERVERS.format(host=self.host, **doors, status=self.status),
        }.items():
            (self.config / "machine" / f"{name}.conf").write_text(text)
        locations = self.config / "site" / "locations.conf"
        wait = f"proxy_read_timeout {self.read_timeout_s * 1000:.0f}ms;"
        text, n = re.subn("proxy_read_timeout 4500ms;", wait, locations.read_text())
        assert n == 3
        locations.write_text(text)
        self._make_certificate()
        self._hand_over()
        return self

    def _hand_over(self) -> None:
        """Give the files to the user that nginx runs as."""
        for path in (self.dir, *self.dir.rglob("*")):
            if DEMOTE:
                os.chown(path, DEMOTE["user"], DEMOTE["group"])

    def _make_certificate(self) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
            + ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
            + ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
            + ["-keyout", "key.pem", "-out", "certificate.pem"],
            cwd=self.config, check=True, capture_output=True,
        )  # fmt: skip

    def command(self) -> list[str]:
        config = ["-c", str(self.config / "nginx.conf"), "-e", "error.log"]
        return [self.exe, "-p", str(self.dir), *config, "-g", "daemon off;"]

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=0.5).close()
            return True
        return False

    def log(self) -> str:
        files: list[Path] = [self.dir / "log", self.dir / "error.log"]
        return "".join(f.read_text()[-4000:] for f in files if f.exists())
