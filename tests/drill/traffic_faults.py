"""Faults by traffic: overload, a thundering herd, slow clients."""

import asyncio
import os
import re
import socket
from contextlib import suppress
from time import monotonic

from tests.drill.context import Context
from tests.load import load_generator
from tests.load.connections import Address
from tests.load.request_template import RequestTemplate

OVERLOAD_TIMES = 5.0
CAPACITY_S = 1.0
CLIENTS = (8, 32)
HERD = 200
DRIPPING, NOT_READING = 150, 50


def overload(context: Context) -> None:
    """Measure the capacity, then send five times as much."""
    stack = context.stack
    # Each request is a new search.
    new = RequestTemplate(
        stack.address.port, f"{stack.paths.items}?search=nothing{{count}}"
    )
    rates = []
    for clients in CLIENTS:
        load = load_generator.in_closed_loop, new, clients, CAPACITY_S
        seen = context.generator.submit(*load).result()
        rates.append(sum(one.status == 200 for one in seen) / CAPACITY_S)
    capacity = max(rates)
    context.measured["capacity"] = capacity
    context.complete_at = monotonic()
    context.state["flood"] = context.generator.submit(
        load_generator.in_open_loop, new, OVERLOAD_TIMES * capacity, context.seconds
    )


def measure_overload(context: Context) -> None:
    seen = context.state["flood"].result()
    good = sum(one.status == 200 and one.took_s < 1 for one in seen)
    rate = good / context.seconds
    context.measured["goodput"] = rate / max(context.measured["capacity"], 1.0)


def herd(context: Context) -> None:
    """Send one uncached request from all clients at once."""
    path = f"{context.stack.paths.items}?search={os.urandom(8).hex()}"
    answers = asyncio.run(_herd(context.stack.address, path))
    fetched = sum("hit" not in how and "collapsed" not in how for _, how in answers)
    context.measured["answered"] = sum(status == 200 for status, _ in answers)
    if any(how for _, how in answers):
        context.measured["fetched"] = fetched


async def _herd(address: Address, path: str) -> list[tuple[int, str]]:
    all_connected = asyncio.Barrier(HERD)
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    async def client() -> tuple[int, str]:
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(*address[:2])
                await all_connected.wait()
                writer.write(request.encode())
                head = (await reader.read()).partition(b"\r\n\r\n")[0].decode("latin-1")
                writer.close()
        except (OSError, TimeoutError):
            return 0, ""
        how = re.search(r"(?i)cache-status: (.*)", head)
        return int(head[9:12] or 0), how[1] if how else ""

    return await asyncio.gather(*(client() for _ in range(HERD)))


def slow_clients(context: Context) -> None:
    """Some clients send a request byte by byte, others do not read the response."""
    address = context.stack.address
    sockets = context.state["sockets"] = []
    for number in range(DRIPPING + NOT_READING):
        peer = socket.create_connection(address[:2], timeout=5)
        if number < DRIPPING:
            peer.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        else:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = (
                f"GET {context.stack.paths.export} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            )
            peer.sendall(f"{request}\r\n".encode())
        sockets.append(peer)


def drip(context: Context) -> None:
    for peer in context.state["sockets"]:
        with suppress(OSError):
            peer.sendall(b"x")


def close_slow_clients(context: Context) -> None:
    for peer in context.state["sockets"]:
        peer.close()
