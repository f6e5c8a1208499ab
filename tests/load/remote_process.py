"""Calls of functions in a process of their own."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, NoReturn, Self


class RemoteProcess:
    """A process with its own environment that runs functions of a module.

    They are called by name, so that this process need not import the module.
    """

    def __init__(self, module: str, env: Mapping[str, str]) -> None:
        self._module = module
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _prepare, (dict(env),))

    def __enter__(self) -> Self:
        self._pid = self._pool.submit(os.getpid).result()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        self._pool.shutdown()

    def call(self, function: str, *args: Any) -> Any:
        """Raise RuntimeError with its traceback if it fails."""
        return self._pool.submit(_call, self._module, function, args).result()


def _prepare(env: dict[str, str]) -> None:
    # An exception, so that its children end, too.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(env)
    if "DJANGO_SETTINGS_MODULE" in env:
        import django

        django.setup()


def _call(module: str, function: str, args: tuple[Any, ...]) -> Any:
    try:
        return getattr(importlib.import_module(module), function)(*args)
    except Exception:  # noqa: BLE001 - some cannot be passed to the caller
        raise RuntimeError(traceback.format_exc()) from None


def _end(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)
