"""gunicorn with threads, a ModelViewSet and django-redis, behind a simple nginx."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import psutil
import psycopg

from items.sample import rows
from tests.deploy.nginx import MAIN, Nginx
from tests.drill.api import KNOWN_ITEMS
from tests.drill.clients import Clients, Paths
from tests.drill.history import Findings, History, check_items
from tests.drill.stack import Stack
from tests.load.connections import Address
from tests.load.testbed import Program
from tests.private_server import free_port
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
        env = Site(data).env | {
            "DJANGO_SETTINGS_MODULE": "tests.drill.plain.settings",
            "DATABASE_URL": self.postgres.url(),
            "REDIS_URL": f"redis://127.0.0.1:{self.to_redis.port}/0",
            "SECRET_KEY": "drill-" * 10,
        }
        self.token = self._prepare(env)
        port = free_port()
        command = ["-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-w", "2"]
        command += ["-k", "gthread", "--threads", "8", "tests.load.django_peer.wsgi"]
        self.program = Program(env, command, ready="Booting worker")
        cleanup.enter_context(self.program)
        self.site = Site(data)
        self.site.port = port
        self.nginx = self._made(PlainNginx)
        if self.nginx:
            cleanup.callback(self.nginx.close)
            self.nginx.serve(port).start()

    def _prepare(self, env: dict[str, str]) -> str:
        command = [sys.executable, "-m", "tests.load.django_peer.prepare", "0"]
        done = subprocess.run(
            command, cwd=ROOT, env=env, check=True, capture_output=True, text=True
        )
        columns = "name, description, created_at, updated_at"
        write = f"COPY django_peer_item ({columns}) FROM STDIN"
        with psycopg.connect(self.postgres.url()) as connection:
            (now,) = connection.execute("SELECT now()").fetchone() or (None,)
            with connection.cursor().copy(write) as copy:
                for row in rows():
                    copy.write_row((row["name"][:200], row["description"], now, now))
        return done.stdout.split()[-1]

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
        return psutil.Process(self.program.process.pid).children()

    def check(self, found: Findings, clients: Clients) -> None:
        items = self._pages(f"{self.paths.items}?search={clients.run_id}")
        check_items(found, clients.history, items)
        found.wrong_answers += clients.history.wrong

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        while path:
            page = self.site.get(path, Host="127.0.0.1").json()
            yield from page["results"]
            path = (page["next"] or "").replace("http://127.0.0.1", "")
