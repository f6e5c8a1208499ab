"""The site on servers of its own, and a load on it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.load import Load, Stack
from tests.faults.proxy import Proxy
from tests.running import Site
from tests.servers import Postgres, Redis
from tests.services_plugin import running


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, postgres_of_faults, redis_of_faults
) -> Iterator[Stack]:
    """Shared: after each fault all is as before, or a test has failed."""
    folder: Path = tmp_path_factory.mktemp("site")
    with ExitStack() as closing:
        to_postgres = Proxy(postgres_of_faults.port)
        closing.callback(to_postgres.close)
        to_redis = Proxy(redis_of_faults.port)
        closing.callback(to_redis.close)
        ports = (str(postgres_of_faults.port), str(to_postgres.port))
        site = Site(
            folder,
            DATABASE_URL=postgres_of_faults.url().replace(*ports),
            REDIS_URL=f"redis://127.0.0.1:{to_redis.port}/0",
            SECRET_KEY="faults-" * 10,
            HTTPS="0",
            ALLOWED_HOSTS="127.0.0.1",
            WEB_PROCESSES="2",
            # All of the load comes from one address.
            RATE_LIMITS="off",
        )
        token, _ = site.fill()
        closing.callback(site.stop)
        site.start_web()
        yield Stack(
            site, postgres_of_faults, redis_of_faults, to_postgres, to_redis, token
        )


@pytest.fixture(scope="session")
def postgres_of_faults() -> Iterator[Postgres]:
    yield from running(Postgres)


@pytest.fixture(scope="session")
def redis_of_faults() -> Iterator[Redis]:
    yield from running(Redis)


@pytest.fixture
def load(stack: Stack) -> Iterator[Load]:
    load = Load(stack)
    yield load
    load.end()
    print(stack.site.output()[-5_000:])  # shown when the test has failed
