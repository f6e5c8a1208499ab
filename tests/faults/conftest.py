"""The site on servers of its own, and a load on it."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from tests.faults.load import Load, Stack
from tests.faults.proxy import Proxy
from tests.running import Site
from tests.servers import Postgres, Redis
from tests.services_plugin import running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Shared: after each fault all is as before, or a test has failed."""
    with ExitStack() as ends:
        postgres = ends.enter_context(contextmanager(running)(Postgres))
        redis = ends.enter_context(contextmanager(running)(Redis))
        to_postgres = ends.enter_context(closing(Proxy(postgres.port)))
        to_redis = ends.enter_context(closing(Proxy(redis.port)))
        settings = {
            "DATABASE_URL": postgres.url().replace(
                str(postgres.port), str(to_postgres.port)
            ),
            "SECRET_KEY": "faults-" * 10,
            "HTTPS": "0",
            "ALLOWED_HOSTS": "127.0.0.1",
            # All of the load comes from one address.
            "RATE_LIMITS": "off",
            # A busy machine is none of the faults, and a wait for a server that hangs
            # must not end for these reasons.
            "ADMISSION_PATIENCE_ANONYMOUS_S": "60",
            "ADMISSION_PATIENCE_AUTHENTICATED_S": "60",
            "ADMISSION_PATIENCE_WRITE_S": "60",
            "DEADLINE_READ_S": "120",
            "DEADLINE_WRITE_S": "120",
            "LAST_KNOWN_REDIS_BYTES": str(2**35),  # so that no two share a slot
        }
        own = {"REDIS_URL": f"redis://127.0.0.1:{to_redis.port}/0"}
        folder = tmp_path_factory.mktemp("site")
        site = Site(folder, WEB_PROCESSES="2", **settings, **own)
        token, session = site.fill()
        ends.callback(site.stop)
        site.start_web()
        yield Stack(
            site, settings, postgres, redis, to_postgres, to_redis, token, session
        )


@pytest.fixture
def load(stack: Stack) -> Iterator[Load]:
    load = Load(stack)
    yield load
    load.end()
    print(stack.site.output()[-5_000:])  # shown when the test has failed
