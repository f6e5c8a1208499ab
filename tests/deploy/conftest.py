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
from tests.running import MAKE_EDITOR, SIGN_IN, Answer, Site
from tests.servers import Postgres
from tests.services_plugin import _make as make
from tests.services_plugin import running

# Not collected: to compress it takes minutes.
LARGE = [f"--ignore={name}" for name in ("drf_spectacular*", "admin", "rest_framework")]


class Door(Site):
    """nginx as its clients see it: the requests of Site, without its processes."""

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
        """Have nginx know nothing, and take both web processes for well."""
        self.nginx.stop()
        shutil.rmtree(self.nginx.dir / "cache", ignore_errors=True)
        self.nginx.start()

    def both_answer(self) -> None:
        for web in self.webs:
            wait_for(web.answers, 30)


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Shared: each test that breaks something mends it."""
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
        for command in (
            # First: what names static files needs their list.
            ["collectstatic", "--noinput", *LARGE],
            ["migrate"], ["load_sample"], ["shell", "-c", MAKE_EDITOR],
        ):  # fmt: skip
            done = webs[0].manage(*command)
            assert done.returncode == 0, done.stderr
        token = webs[0].manage("create_token", "edith").stdout.strip()
        session = webs[0].manage("shell", "-v", "0", "-c", SIGN_IN).stdout.strip()
        for web in webs:
            closing.callback(web.stop)
            web.start_web()
        nginx.serve(*(web.port for web in webs)).start()
        yield Production(nginx, webs, token, session)
