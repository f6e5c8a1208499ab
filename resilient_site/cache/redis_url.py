"""Where Redis is: REDIS_URL, of a server, or of Sentinels that know which one it is.

    redis://[user:password@]host:port/db        as redis-py has it; also rediss, unix
    sentinel://[user:password@]host[:port][,host[:port]...]/service[/db]

The user is that of Redis; Sentinel's own is in the query (`sentinel_username`,
`sentinel_password`). With Sentinel all goes to the primary, also what reads: a replica
may not have a sign-out or an invalidation yet.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from redis import Redis

SCHEME = "sentinel"
SENTINEL_PORT = 26379
LOGIN = ("username", "password")


@dataclass(frozen=True)
class Service:
    """A primary and its replicas, under the name by which Sentinels know them."""

    sentinels: tuple[tuple[str, int], ...]
    name: str
    db: int
    # The user, and that of the Sentinels: `username` and `password`, if there are.
    login: dict[str, str]
    sentinel_login: dict[str, str]

    def sentinel_options(self, timeout_s: float) -> dict[str, Any]:
        """Return options of redis-py: it would ask one that is dead for seconds."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        once = {"retry": Retry(NoBackoff(), 0)}
        return self.sentinel_login | timeouts(timeout_s) | once


def timeouts(timeout_s: float) -> dict[str, float]:
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


def parse_service(url: str) -> Service | None:
    """Return what a URL of Sentinels names; None for another one.

    Raises ImproperlyConfigured if it is malformed.
    """
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        return None
    try:
        *_, hosts = parts.netloc.rpartition("@")
        _, name, *db = parts.path.split("/")
        found = [urlsplit(f"//{host}") for host in hosts.split(",")]
        addresses = tuple((str(at.hostname), at.port or SENTINEL_PORT) for at in found)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        if not name or len(db) > 1 or not all(at.hostname for at in found):
            raise ValueError("no host or service")
        if unknown := query.keys() - {f"sentinel_{part}" for part in LOGIN}:
            raise ValueError(f"unknown {sorted(unknown)}")
        return Service(
            addresses,
            name,
            int(*db),
            _login(parts.username, parts.password),
            _login(*(query.get(f"sentinel_{part}", [""])[0] for part in LOGIN)),
        )
    except ValueError as error:
        text = "REDIS_URL is not sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"
        raise ImproperlyConfigured(f"{text}: {error}") from error


def _login(username: str | None, password: str | None) -> dict[str, str]:
    given = zip(LOGIN, (username, password), strict=True)
    return {name: unquote(value) for name, value in given if value}


def cache_options(url: str, timeout_s: float) -> tuple[str, dict[str, Any]]:
    """Return LOCATION and OPTIONS of django-redis for this Redis."""
    service = parse_service(url)
    if service is None:
        return url, {}
    login = {name.upper(): value for name, value in service.login.items()}
    return f"redis://{service.name}/{service.db}", login | {
        "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
        "SENTINELS": service.sentinels,
        "SENTINEL_KWARGS": service.sentinel_options(timeout_s),
    }


def connect(timeout_s: float) -> "Redis":
    """Return a client of the Redis of this site, which has a pool of its own."""
    from redis import Redis, Sentinel  # slow to import: only where there is a Redis

    service = parse_service(settings.REDIS_URL)
    if service is None:
        return Redis.from_url(settings.REDIS_URL, **timeouts(timeout_s))
    untyped: Any = Sentinel
    sentinel = untyped(
        service.sentinels, sentinel_kwargs=service.sentinel_options(timeout_s)
    )
    primary: Redis = sentinel.master_for(
        service.name, db=service.db, **service.login, **timeouts(timeout_s)
    )
    return primary
