"""A pool of threads for what may never return, such as a read of a disk that hangs."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread


class DaemonThreads:
    """Pool of threads that do not hold the process when the disk does not answer.

    ThreadPoolExecutor's are joined when the interpreter exits.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = 0

    def __del__(self) -> None:
        for _ in range(self._started):
            self._calls.put(None)

    def submit[**P, T](
        self, function: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> Future[T]:
        future = Future[T]()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args, **options))
                except Exception as error:  # noqa: BLE001 - it is the caller's
                    future.set_exception(error)

        if self._started < self._size:
            Thread(
                target=_run_all, args=(self._calls,), name=self._name, daemon=True
            ).start()
            self._started += 1
        self._calls.put(call)
        return future


def _run_all(calls: "SimpleQueue[Callable[[], None] | None]") -> None:
    while call := calls.get():
        call()
        del call  # with what it refers to
