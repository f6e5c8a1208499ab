"""gunicorn with threads, a ModelViewSet and django-redis, behind a simple nginx."""

import subprocess
import sys
from contextlib import ExitStack
from itertools import batched
from typing import Self

import psutil

from items.sample import rows
from tests.deploy.nginx import MAIN, Nginx
from tests.drill.clients import Paths
from tests.drill.stack import Stack
from tests.load.connections import Address
from tests.load.django_peer import APPLICATION
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
        site = Site(
            data,
            DJANGO_SETTINGS_MODULE="tests.drill.plain.settings",
            DATABASE_URL=self.postgres.url(),
            REDIS_URL=f"redis://127.0.0.1:{self.to_redis.port}/0",
            SECRET_KEY="drill-" * 10,
        )
        self.sites = [site]
        prepare = [sys.executable, "-m", "tests.load.django_peer.prepare", "0"]
        self.token = subprocess.run(
            prepare, cwd=ROOT, env=site.env, check=True, capture_output=True, text=True
        ).stdout.strip()
        cleanup.callback(site.stop)
        options = ["-b", f"127.0.0.1:{site.port}", "-w", "2"]
        options += ["-k", "gthread", "--threads", "8"]
        command = [sys.executable, "-m", "gunicorn", *options, APPLICATION]
        with open(site.output_path, "ab") as output:
            site.run(command, 60, cwd=ROOT, stdout=output, stderr=output)
        headers = {"Authorization": f"Token {self.token}"}
        for batch in batched(rows(), 1_000, strict=False):
            items = [
                {"name": row["name"][:200], "description": row["description"]}
                for row in batch
            ]
            site.request("POST", "/items/bulk/", items, headers)
        self.nginx = self._create_if_installed(PlainNginx)
        if self.nginx:
            cleanup.callback(self.nginx.close)
            self.nginx.serve(site.port).start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", (self.nginx or self.sites[0]).port)

    def web_processes(self) -> list[psutil.Process]:
        return psutil.Process(self.sites[0].process.pid).children()
