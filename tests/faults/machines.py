"""Two machines with a site each, over one PostgreSQL and one Redis."""

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import Answer, Site
from tests.servers import Postgres, Redis

CSRF = "c" * 32
# Keys of the responses that machines share in Redis.
RESPONSES = "*:response:*"


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

    def found(self, path: str) -> Answer | None:
        """Return the response if its status is 200, else None."""
        answer = self.site.get(path, Host="127.0.0.1")
        return answer if answer.status == 200 else None

    def is_ready(self) -> bool:
        """Return whether it has the database and the cache."""
        ready = self.found("/readyz")
        return ready is not None and ready.body == b"ok\n"

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
        wait_for(lambda: self.here.is_ready() and self.there.is_ready())

    def have_stored(self, item: str, *paths: str) -> None:
        """Have Redis hold these responses, which contain the item."""
        shared = redis.Redis.from_url(self.ground.redis.url())
        for key in shared.keys(RESPONSES):
            shared.delete(key)
        # A response is stored with its key, which has path and query as they are.
        wanted = [(item, *path.split("?")) for path in paths]

        def is_stored() -> bool:
            self.here.cache(*paths)  # it is written behind the answer
            values = shared.mget(["none", *shared.keys(RESPONSES)])
            texts = [zlib.decompress(value).decode() for value in values if value]
            return all(
                any(all(part in text for part in parts) for text in texts)
                for parts in wanted
            )

        wait_for(is_stored)

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
    """Wait until it is so, at most `within_s`; return how long that took."""
    began = time.monotonic()
    wait_for(condition, within_s)
    return time.monotonic() - began
