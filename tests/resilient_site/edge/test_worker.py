"""The gunicorn worker is replaced after WEB_MAX_REQUESTS."""

import psutil
import pytest

from tests.load.clients import Clients
from tests.private_server import wait_for
from tests.running import Site, admin_token

pytestmark = pytest.mark.once


def test_worker_is_replaced_without_a_failed_request(tmp_path):
    # No job ends, as there is no pool.
    site = Site(tmp_path, RATE_LIMITS="off", WEB_MAX_REQUESTS="200")
    token = admin_token()
    headers = {"Authorization": f"Token {token}"}
    workers: set[psutil.Process] = set()
    try:
        site.start_web()
        master = psutil.Process(site.process.pid)
        body = {"task": "catalogue_report"}
        job = site.request("POST", "/api/v1/jobs/", body, headers).json()["id"]
        with Clients(site, token) as clients:
            clients.run(clients.read, number=2)
            clients.run(clients.read_once, number=2)
            clients.run(clients.read, 0.5, number=4)
            clients.run(clients.write)
            clients.run(clients.follow, job, number=3)

            def is_replaced_twice() -> bool:
                workers.update(master.children())
                # Each stream was opened again at the end of its process.
                return len(workers) >= 3 and clients.streams >= 6

            wait_for(is_replaced_twice)
        assert clients.failures == []
    finally:
        site.stop()
