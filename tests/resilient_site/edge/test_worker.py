"""The gunicorn worker: replaced after WEB_MAX_REQUESTS, stopped, without its master."""

import time
from collections.abc import Iterator

import psutil
import pytest

from tests.load.clients import Clients
from tests.running import Site, admin_token

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """One web process at a time. No job ends, as there is no pool."""
    site = Site(
        tmp_path_factory.mktemp("site"), RATE_LIMITS="off", WEB_MAX_REQUESTS="500"
    )
    try:
        yield site.start_web()
    finally:
        site.stop()


def test_worker_is_replaced_without_a_failed_request(site):
    token = admin_token()
    headers = {"Authorization": f"Token {token}"}
    body = {"task": "catalogue_report"}
    job = site.request("POST", "/api/v1/jobs/", body, headers).json()["id"]
    master = psutil.Process(site.process.pid)
    seen = set(master.children())
    with Clients(site, token) as clients:
        clients.run(clients.read_keep_alive, 2)
        clients.run(clients.read_once, 2)
        clients.run(clients.read_with_pauses, 4)
        clients.run(clients.write)
        clients.run(clients.watch(job), 3)
        deadline = time.monotonic() + 60
        while len(seen) < 4 and time.monotonic() < deadline:
            clients.pause(0.05)
            seen |= set(master.children())
    assert len(seen) >= 4
    assert clients.failures == []
    assert clients.streams >= 6  # each was opened again at the end of its process
