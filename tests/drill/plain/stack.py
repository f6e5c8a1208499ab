"""gunicorn with threads, a ModelViewSet and django-redis, behind a simple nginx."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import batched
from typing import Any, Self

import psutil

from items.sample import rows
from tests.deploy.nginx import MAIN, Nginx
from tests.drill.api import KNOWN_ITEMS
from tests.drill.clients import DrillClients, Paths
from tests.drill.history import Findings, History, check_items
from tests.drill.stack import Stack
from tests.load.connections import Address
from tests.running import ROOT, Site

NGINX = """
{main}
worker_processes auto;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{site};
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""


class PlainNginx(Nginx):
    def serve(self, *ports: int) -> Self:
        (site,) = ports
        text = NGINX.format(main=MAIN, port=self.port, site=site)
        self.config.mkdir()
        (self.config / "nginx.conf").write_text(text)
        self._hand_over()
        return self


class PlainStack(Stack):
    name = "plain"
    paths = Paths(items="/items/", list="/items/", export="/items/")

    def _start_site(self, cleanup: ExitStack) -> None:
        data = self.disk.folder / "plain"
        data.mkdir(mode=0o700)
        self.site = Site(
            data,
            DJANGO_SETTINGS_MODULE="tests.drill.plain.settings",
            DATABASE_URL=self.postgres.url(),
            REDIS_URL=f"redis://127.0.0.1:{self.to_redis.port}/0",
            SECRET_KEY="drill-" * 10,
        )
        prepare = [sys.executable, "-m", "tests.load.django_peer.prepare", "0"]
        self.token = subprocess.run(
            prepare, cwd=ROOT, env=self.site.env, check=True, capture_output=True,
            text=True,
        ).stdout.strip()  # fmt: skip
        cleanup.callback(self.site.stop)
        address = f"127.0.0.1:{self.site.port}"
        options = ["-b", address, "-w", "2", "-k", "gthread", "--threads", "8"]
        command = [sys.executable, "-m", "gunicorn", *options]
        self.site._run_in_folder([*command, "tests.load.django_peer.wsgi"], 60)
        headers = {"Authorization": f"Token {self.token}"}
        for batch in batched(rows(), 1_000, strict=False):
            items = [
                {"name": row["name"][:200], "description": row["description"]}
                for row in batch
            ]
            self.site.request("POST", "/items/bulk/", items, headers)
        self.nginx = self._create_if_installed(PlainNginx)
        if self.nginx:
            cleanup.callback(self.nginx.close)
            self.nginx.serve(self.site.port).start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", (self.nginx or self.site).port)

    def record_start(self) -> None:
        """Do nothing: it has no change log."""

    def history(self) -> History:
        items = self._pages(f"{self.paths.items}?page=2")
        known = [next(items) for _ in range(KNOWN_ITEMS)]
        return History({str(item["id"]): item["name"] for item in known})

    def web_processes(self) -> list[psutil.Process]:
        return psutil.Process(self.site.process.pid).children()

    def check(self, found: Findings, clients: DrillClients) -> None:
        items = self._pages(f"{self.paths.items}?search={clients.run_id}")
        check_items(found, clients.history, items)
        found.wrong_answers += clients.history.wrong

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        while path:
            page = self.site.get(path, Host="127.0.0.1").json()
            yield from page["results"]
            path = (page["next"] or "").replace("http://127.0.0.1", "")
