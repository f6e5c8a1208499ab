"""The site as in production: nginx, two gunicorns, PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.nginx import Nginx
from tests.private_server import wait_for
from tests.running import Answer, Site
from tests.servers import Postgres
from tests.services_plugin import _make as make
from tests.services_plugin import running

# Before anything refers to static files. Compressing all would take minutes.
COLLECT = """
from django.core.management import call_command
large = ["drf_spectacular*", "admin", "rest_framework"]
call_command("collectstatic", interactive=False, ignore_patterns=large, verbosity=0)
"""


class Door(Site):
    """nginx as its clients see it: Site's requests, without its processes."""

    def __init__(self, port: int) -> None:
        self.host, self.port = "127.0.0.1", port


@dataclass
class Production:
    nginx: Nginx
    webs: tuple[Site, Site]
    token: str = ""
    session: str = ""

    def __post_init__(self) -> None:
        self.site = Door(self.nginx.port)
        self.narrow = Door(self.nginx.narrow)

    @property
    def signed_in(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.token}"}

    def write(self, method: str, path: str, body: Any, **headers: str) -> Answer:
        return self.site.request(method, path, body, self.signed_in | headers)

    def forget(self) -> None:
        """Restart nginx with an empty cache and both web processes up."""
        self.nginx.stop()
        shutil.rmtree(self.nginx.dir / "cache", ignore_errors=True)
        self.nginx.start()

    def both_answer(self) -> None:
        for web in self.webs:
            wait_for(web.answers)


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Shared: a test that breaks something repairs it."""
    folder: Path = tmp_path_factory.mktemp("production")
    with ExitStack() as closing:
        postgres = closing.enter_context(contextmanager(running)(Postgres))
        nginx = make(Nginx)
        closing.callback(nginx.close)
        env = {
            "DATABASE_URL": postgres.url(),
            "SECRET_KEY": "production-" * 10,
            "HTTPS": "0",
            "ALLOWED_HOSTS": "127.0.0.1",
            "RATE_LIMITS": "off",
            "STATIC_ROOT": str(nginx.public / "static"),
            "DEADLINE_READ_S": "4",
        }
        webs = (Site(folder, **env), Site(folder, **env))
        token, session = webs[0].fill(COLLECT)
        for web in webs:
            closing.callback(web.stop)
            web.start_web()
        nginx.serve(*(web.port for web in webs)).start()
        yield Production(nginx, webs, token, session)
