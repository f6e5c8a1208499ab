"""A web process that stops, and the connections that a proxy keeps to it."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.private_server import BUSY_S, wait_for
from tests.running import Site

pytestmark = pytest.mark.once


def is_shut(site: Site) -> bool:
    try:
        socket.create_connection((site.host, site.port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("is_proxy", [True, False])
def test_an_idle_connection_of_a_proxy_is_heard_to_the_end(
    tmp_path: Path, is_proxy: bool
):
    trusted = {"FORWARDED_ALLOW_IPS": "127.0.0.1"} if is_proxy else {}
    site = Site(tmp_path, **trusted).start_web()
    connection = http.client.HTTPConnection(site.host, site.port, timeout=10)
    try:
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"
        peer = connection.sock
        site.process.terminate()
        wait_for(lambda: is_shut(site))
        if is_proxy:
            with pytest.raises(subprocess.TimeoutExpired):
                site.process.wait(1)
            # As if sent before it could be known that it is over.
            connection.request("GET", "/livez")
            answer = connection.getresponse()
            assert answer.read() == b"ok\n"
            assert answer.headers["Connection"] == "close"
        else:
            assert peer.recv(1) == b""  # closed: nobody is waited for
        assert site.process.wait(5) == 0
    finally:
        connection.close()
        site.kill()


def test_who_asks_a_second_time_for_the_stop_need_not_wait(tmp_path: Path):
    site = Site(tmp_path, FORWARDED_ALLOW_IPS="127.0.0.1").start()
    connection = http.client.HTTPConnection(site.host, site.port, timeout=10)
    try:
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"
        site.process.send_signal(signal.SIGINT)
        wait_for(lambda: is_shut(site))
        with pytest.raises(subprocess.TimeoutExpired):
            site.process.wait(1)
        site.process.send_signal(signal.SIGINT)
        assert site.process.wait(3 + BUSY_S) == 0
    finally:
        connection.close()
        site.kill()
