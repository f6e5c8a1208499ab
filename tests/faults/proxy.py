"""A TCP proxy that can be slow, silent, or cut off."""

import asyncio
import socket
import threading
from contextlib import suppress

from tests.private_server import free_port


class Proxy:
    """Passes on what is sent to `port`, each piece after `delay_s`."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.delay_s = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Not an asyncio.Server: what that takes while it is closed remains open.
        self._listener: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.accept()

    def accept(self) -> None:
        self._do(self._accept())

    def refuse(self) -> None:
        """Cut all connections, and refuse new ones."""
        self._do(self._refuse())

    def hold(self) -> None:
        """Take connections and what is sent, and pass nothing on until `let_go`."""
        self._call(self._flowing.clear)

    def let_go(self) -> None:
        self._call(self._flowing.set)

    def lose(self) -> None:
        """Pass nothing on for the present connections any more; new ones work."""
        self._call(self._lost.update, self._writers)

    def close(self) -> None:
        self.let_go()
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(90)

    def _call(self, function, *args) -> None:
        """Call it in the loop; what is sent after the return meets its effect."""

        async def call() -> None:
            function(*args)

        self._do(call())

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._take, self._listener)

    def _take(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the client has gone
            task = self._loop.create_task(self._connect(listener.accept()[0]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end(self) -> None:
        while self._tasks:
            await self._refuse()  # also what was being connected
            await asyncio.wait(self._tasks, timeout=0.1)

    async def _connect(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            onward = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(
            self._pump(reader, onward[1]), self._pump(onward[0], writer)
        )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            while piece := await reader.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                if writer not in self._lost:
                    writer.write(piece)
                    await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self._writers.discard(writer)
