"""Calls of functions in a process of their own."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from multiprocessing import get_context
from typing import Any, NoReturn, Self


class RemoteProcess:
    """A process with its own environment that runs functions of a module.

    They are called by name, so that this process need not import the module.
    """

    def __init__(self, module: str, env: Mapping[str, str]) -> None:
        context = get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._theirs, module, dict(env))
        )

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()  # an idle process exits
        self._process.join(0.5)
        while self._process.is_alive():
            self._process.terminate()
            self._process.join(1)

    def call(self, function: str, *args: Any) -> Any:
        """Raise RuntimeError with its traceback if it fails."""
        self._pipe.send((function, args))
        value, error = self._pipe.recv()
        if error:
            raise RuntimeError(error)
        return value


def _serve(pipe: Any, module: str, env: dict[str, str]) -> None:
    # An exception, so that its children end, too.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(env)
    if "DJANGO_SETTINGS_MODULE" in env:
        import django

        django.setup()
    functions = importlib.import_module(module)
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((getattr(functions, name)(*args), None))
        except Exception:  # noqa: BLE001 - raised by the caller
            pipe.send((None, traceback.format_exc()))


def _end(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)
