"""Two machines with a site each, over one PostgreSQL and one Redis."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import Answer, Site
from tests.servers import Postgres, Redis

CSRF = "c" * 32
ADD_EDITOR = """
from django.contrib.auth.models import Group, User
from django.test import Client
from items.apps import EDITORS
edith, _ = User.objects.get_or_create(username="edith")
edith.groups.add(Group.objects.get(name=EDITORS))
client = Client()
client.force_login(edith)
print(client.cookies["sessionid"].value)
"""


@dataclass
class Machine:
    """A site with a folder of its own, and its own way to Redis."""

    site: Site
    to_redis: Proxy
    slowest_s: float = field(default=0.0, init=False)

    def get(self, path: str, **headers: str) -> Answer:
        # As behind a balancer: the name is that of the site, not of the machine.
        return self.ask("GET", path, headers=headers)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        began = time.monotonic()
        sent = {"Host": "127.0.0.1"} | (headers or {})
        answer = self.site.request(method, path, body, sent)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        assert answer.status < 500, answer.body
        return answer

    def cache(self, *paths: str) -> None:
        """Have these in its shared cache."""
        # An invalidation of an earlier change may arrive meanwhile.
        wait_for(lambda: all(map(self._is_cached, paths)))

    def _is_cached(self, path: str) -> bool:
        return "; hit" in self.get(path).headers["Cache-Status"]


@dataclass
class Ground:
    """Servers that all machines share."""

    postgres: Postgres
    redis: Redis
    folder: Path

    @contextmanager
    def machine(self, name: str) -> Iterator[Machine]:
        """Start one that has cached nothing."""
        to_redis = Proxy(self.redis.port)
        site = self.site(name, f"redis://127.0.0.1:{to_redis.port}/0")
        try:
            yield Machine(site.start_web(), to_redis)
        finally:
            print(site.output()[-3_000:])  # shown when the test has failed
            site.stop()
            to_redis.close()

    def site(self, name: str, redis_url: str | None = None) -> Site:
        return Site(
            self.folder / name,
            DATABASE_URL=self.postgres.url(),
            REDIS_URL=redis_url or self.redis.url(),
            SECRET_KEY="machines-" * 10,
            HTTPS="0",
            ALLOWED_HOSTS="127.0.0.1",
            LAST_KNOWN_REDIS_BYTES=str(2**35),  # so that no two share a slot
        )


@dataclass
class Pair:
    ground: Ground
    here: Machine
    there: Machine
    session: str
    token: str

    def are_ready(self) -> None:
        """Wait until both are ready."""
        machines = (self.here, self.there)
        wait_for(lambda: all(m.get("/readyz").body == b"ok\n" for m in machines))

    @property
    def by_form(self) -> dict[str, str]:
        """What a signed-in browser sends with a form."""
        cookie = f"sessionid={self.session}; csrftoken={CSRF}"
        return {"Cookie": cookie, "X-CSRFToken": CSRF}

    def write(self, method: str, item: str = "", **body: str) -> Answer:
        """Change the catalogue on the machine here."""
        path = f"/api/v1/items/{item}"
        answer = self.here.ask(method, path, body or None, by(self.token))
        assert answer.status in (200, 201, 204), answer.body
        return answer


def by(token: str) -> dict[str, str]:
    return {"Authorization": f"Token {token}"}


def until(condition: Callable[[], bool], within_s: float) -> float:
    """Ask until it is so; return how long that took. Fails after `within_s`."""
    began = time.monotonic()
    wait_for(condition, within_s)
    took_s = time.monotonic() - began
    assert took_s < within_s
    return took_s
