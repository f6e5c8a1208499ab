"""The connections of this process: how many, and how long each may keep it waiting."""

import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.conf import settings

if TYPE_CHECKING:
    from resilient_site.edge.http_protocol import Protocol

# A client who does not take so many bytes in so long does not read what he asked for.
UNREAD_S = 30.0
SLOWEST_BYTES_PER_S = 1024
# From here on he may take what the system keeps for him at his own pace.
_BYTES_ACKED = struct.Struct("120xQ")


def _nothing() -> None:
    pass


class Crowd:
    """Those who are waited for stand in a row, the one who came first in front."""

    def __init__(self, most: int, head_s: float) -> None:
        self.most = most
        self.head_s = head_s
        self.is_leaving = False
        # Called when somebody has come in: others may wait behind him.
        self.on_arrival: Callable[[], None] = _nothing
        # Uvicorn counts no request whose client closes as soon as he has the answer.
        self.requests = 0
        # As they were when they were last looked through.
        self.number = 0
        self._expected: dict[Protocol, None] = {}
        self._unread: dict[Protocol, tuple[float, int]] = {}

    def let_in(self, newcomer: "Protocol", number: int) -> bool:
        """Make room for one more, if anybody is there who asks for nothing."""
        if number > self.most:
            oldest = next(iter(self._expected), None)
            if oldest is None:
                return False
            self.forget(oldest)
            oldest.transport.abort()
        self._expected[newcomer] = None
        return True

    def expect(self, protocol: "Protocol") -> None:
        self._expected[protocol] = None

    def forget(self, protocol: "Protocol") -> None:
        self._expected.pop(protocol, None)

    def leave(self, connections: Iterable[Any]) -> None:
        """Let every client have one more answer, and be told that it is the last."""
        self.is_leaving = True
        for protocol in connections:
            protocol.leave()

    def sweep(self, connections: Iterable[Any], now: float) -> None:
        """End what has lasted too long. Called every second or so."""
        unread = {}
        there = list(connections)
        self.number = len(there)
        for protocol in there:
            until, began = protocol.lingers_until, protocol.head_began
            if until is not None and now > until:
                protocol.transport.abort()
            elif began is not None and now - began > self.head_s and protocol.is_idle():
                protocol.give_up_waiting()
            if protocol.transport.get_write_buffer_size():
                unread[protocol] = self._watch(protocol, now)
        self._unread = unread

    def _watch(self, protocol: "Protocol", now: float) -> tuple[float, int]:
        taken = bytes_taken(protocol.transport)
        since, before = self._unread.get(protocol, (now, taken))
        if now - since < UNREAD_S:
            return since, before
        if taken - before < UNREAD_S * SLOWEST_BYTES_PER_S:
            protocol.transport.abort()
        return now, taken


def bytes_taken(transport: Any) -> int:
    """Return a number that grows as the client takes what was written."""
    connection = transport.get_extra_info("socket")
    if sys.platform == "linux" and connection.family != socket.AF_UNIX:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        return int(_BYTES_ACKED.unpack(info)[0])
    left = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    waiting: int = transport.get_write_buffer_size()
    return -int.from_bytes(left, sys.byteorder) - waiting


crowd = Crowd(settings.WEB_MAX_CONNECTIONS, settings.WEB_HEAD_S)
