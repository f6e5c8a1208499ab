"""The private RabbitMQ: what it keeps, where it listens, and that nothing is left."""

import shutil
import socket
import subprocess
import sys

import psutil
import pytest
from kombu import Connection, Exchange, Queue

from tests.private_server import has_ended, wait_for
from tests.running import ROOT
from tests.servers import RabbitMQ

pytestmark = pytest.mark.once

QUEUE = Queue(
    "jobs", Exchange("jobs"), "jobs", queue_arguments={"x-queue-type": "quorum"}
)


def publish(broker: RabbitMQ, message: str) -> None:
    """Return when the broker has confirmed that it keeps the message."""
    confirmed = {"confirm_publish": True}
    with Connection(broker.url(), transport_options=confirmed) as connection:
        connection.Producer().publish(
            message, exchange="jobs", routing_key="jobs", declare=[QUEUE]
        )


def take(broker: RabbitMQ) -> str:
    with Connection(broker.url()) as connection:
        queue = connection.SimpleQueue(QUEUE)
        try:
            message = queue.get(timeout=10)
            message.ack()
            return message.payload
        finally:
            queue.close()


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_confirmed_message_outlives_a_killed_broker(rabbitmq_own):
    publish(rabbitmq_own, "first")
    # A queue is whole on the disk only a second after it was declared, or by this.
    rabbitmq_own.restart()
    assert take(rabbitmq_own) == "first"
    publish(rabbitmq_own, "kept")
    before = rabbitmq_own.processes()

    rabbitmq_own.kill()
    assert len(before) > 1
    assert all(map(has_ended, before))
    # What it had started in that moment may hold its port a little longer.
    wait_for(lambda: refuses(rabbitmq_own.port))

    rabbitmq_own.start()
    assert take(rabbitmq_own) == "kept"

    rabbitmq_own.pause()
    with pytest.raises(TimeoutError):
        Connection(rabbitmq_own.url(), connect_timeout=1).connect()
    rabbitmq_own.resume()
    publish(rabbitmq_own, "after the pause")
    assert take(rabbitmq_own) == "after the pause"

    processes = rabbitmq_own.processes() + rabbitmq_own.epmd.processes()
    rabbitmq_own.close()
    assert all(map(has_ended, processes))
    assert not rabbitmq_own.dir.exists()


SESSION = """
import sys
from tests.servers import RabbitMQ
broker = RabbitMQ().start()
pids = [p.pid for p in broker.processes() + broker.epmd.processes()]
print(broker.dir, broker.epmd.dir, *pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")
def test_a_broker_is_on_loopback_alone_and_ends_with_a_session_that_is_killed():
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with session:
        *directories, pids = session.stdout.readline().split(maxsplit=2)
        processes = [psutil.Process(int(pid)) for pid in pids.split()]
        sockets = [c for p in processes for c in p.net_connections()]
        session.kill()
    try:
        wait_for(lambda: all(map(has_ended, processes)))
    finally:
        for directory in directories:
            shutil.rmtree(directory)
    listening = [c.laddr for c in sockets if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
    assert not {address.port for address in listening} & {4369, 5672, 25672}
