"""The web processes as a pod runs them: on a read-only root, stopped under load.

One file: its tests share the servers.
"""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.deploy.clients import Clients
from tests.deploy.nginx import Nginx
from tests.deploy.pod import USER, Pod
from tests.private_server import wait_for
from tests.running import Site
from tests.servers import Postgres, Redis
from tests.services_plugin import _make as make
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]

ITEMS = "/api/v1/items/"


class Cluster:
    """Two pods on one database and one Redis, and what a client needs."""

    def __init__(self, folder, closing: ExitStack) -> None:
        postgres = closing.enter_context(contextmanager(running)(Postgres))
        redis = closing.enter_context(contextmanager(running)(Redis))
        url, env = postgres.url(), {"REDIS_URL": redis.url(), "DEADLINE_READ_S": "50"}
        site, token, _ = Site.on_postgres(url, folder / "prepared", **env)
        self.headers = {"Authorization": f"Token {token}"}
        names = "DATABASE_URL", "SECRET_KEY", "HTTPS", "ALLOWED_HOSTS"
        env |= {name: site.env[name] for name in names}
        # The machine is busy.
        env |= {"RATE_LIMITS": "off", "ADMISSION": "0", "HEARTBEAT_TIMEOUT_S": "3"}
        self.pods = [Pod(folder / f"pod{n}", **env) for n in (1, 2)]
        self.worker = Pod(folder / "worker", **env)
        closing.callback(self.worker.kill)
        for pod in self.pods:
            closing.callback(pod.kill)
            pod.start()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as closing:
        yield Cluster(tmp_path_factory.mktemp("cluster"), closing)


def test_pod_serves_on_a_read_only_root(cluster: Cluster):
    pod = cluster.pods[0]
    (user,) = {process.uids().real for process in pod.processes()}
    assert user == int(USER[-1])
    wait_for(lambda: pod.get("/readyz").body == b"ok\n")
    # Large enough to be put into a file on its way.
    rows = [{"name": "Bolt", "description": "x" * 9_000} for _ in range(200)]
    written = pod.request("POST", f"{ITEMS}-/bulk", rows, cluster.headers)
    assert written.json()["created"] == len(rows)
    item = written.json()["results"][0]["id"]
    assert pod.get(f"{ITEMS}{item}").json()["name"] == "Bolt"
    assert b"resilient_site_processes" in pod.get("/metrics").body
    assert "Read-only file system" not in pod.output()
    assert '"level":"error"' not in pod.output().replace(" ", "")


@pytest.mark.parametrize("backend", ["pool", "celery"])
def test_worker_runs_jobs_on_a_read_only_root(cluster: Cluster, backend: str):
    pod, worker = cluster.pods[0], cluster.worker
    worker.env |= {"COMPUTE_BACKEND": backend, "BROKER_URL": worker.env["REDIS_URL"]}
    worker.env["METRICS_BIND"] = f"{worker.host}:{worker.port}"
    worker.start_worker()
    answers = [
        pod.request("POST", "/api/v1/jobs", {"task": task}, cluster.headers)
        for task in ("catalogue_report", "export_items")
    ]
    urls = [answer.headers["Location"] for answer in answers]

    def states() -> set[str]:
        return {pod.get(url, **cluster.headers).json().get("state") for url in urls}

    wait_for(lambda: states() == {"succeeded"})
    ended = b'jobs_ended_total{how="succeeded",task="catalogue_report"} 1.0\n'
    wait_for(lambda: ended in worker.get("/metrics").body)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(90) == 0
    wait_for(lambda: not worker.processes())


def test_pod_stops_under_load_without_a_failed_request(cluster: Cluster):
    """Even where nginx is not told: all that `preStop` waits for is missing here."""
    pod = cluster.pods[1]
    assert pod.process is not None
    nginx = make(Nginx)
    nginx.read_timeout_s = 60  # the machine is busy
    try:
        nginx.serve(*(pod.port for pod in cluster.pods)).start()
        clients = Clients(nginx.port, cluster.headers, pause_s=0.02)
        try:
            wait_for(lambda: clients.seen.total() > 100)
            slow = SlowWrite(pod, cluster.headers)
            pod.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not pod.answers())  # it takes no connections any more
            assert slow.end() == 201
            assert pod.process.wait(90) == 0
            enough = clients.seen.total() + 100
            wait_for(lambda: clients.seen.total() > enough)
        finally:
            seen = clients.end()
    finally:
        nginx.close()
    assert set(seen) == {"GET 200", "POST 201"}, seen


class SlowWrite:
    """A request of which a part has come to the process."""

    def __init__(self, pod: Pod, headers: dict[str, str]) -> None:
        self.body = json.dumps({"name": "Written while the pod stopped"}).encode()
        self.connection = http.client.HTTPConnection(pod.host, pod.port, timeout=90)
        self.connection.putrequest("POST", ITEMS)
        length = {"Content-Length": str(len(self.body))}
        for header in (headers | length | {"Content-Type": "application/json"}).items():
            self.connection.putheader(*header)
        self.connection.endheaders(self.body[:10])
        # One process serves both: it has begun when this is answered.
        assert pod.get("/livez").status == 200

    def end(self) -> int:
        self.connection.send(self.body[10:])
        status = self.connection.getresponse().status
        self.connection.close()
        return status
