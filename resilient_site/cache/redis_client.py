"""Redis as a cache that may vanish at any moment.

Every question goes through the breaker and has a budget of time. What could not be
changed in Redis is kept in a journal: its keys are not read there until they are
deleted there. A thread of its own does that, and finds out when Redis is back; nobody's
call has to. After an outage it also begins a new generation (`scripts.py`), since
another process may have died with its journal.
"""

import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import batched
from typing import Any, NamedTuple

from resilient_site.cache import lua_scripts
from resilient_site.cache.budget import is_spent, question
from resilient_site.cache.journal import Journal
from resilient_site.observability import tracing
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import BreakerOpen, State

logger = logging.getLogger(__name__)

BATCH = 500
# The rest of the budget is for waking up and for memory.
WAITED = 0.9
PAUSE_S = 0.02
PAUSE_MAX_S = 0.5


type Fits = Callable[[Any], bool]


class Away(Exception):
    """Redis was not asked, or did not do it; memory answers instead."""


class Full(Away):
    """Redis has no room for it."""


class Nonsense(Exception):
    """Redis, or whatever is there, answers something else than it was asked."""


class Found(NamedTuple):
    value: bytes | int
    end_ms: int | None


class Remote:
    """What one process knows of one Redis."""

    def __init__(self, connect: Callable[[], Any], budget_s: float) -> None:
        self._connect = connect
        self._breaker = breakers.cache
        self.budget_s = budget_s
        self.errors = 0
        self.poisoned = 0
        self.away = False
        self.journal = Journal()
        self._generation = b""
        self._client: Any = None
        self._unlock()
        instances.add(self)

    def _unlock(self) -> None:
        self._lock = threading.RLock()
        self._healer: threading.Thread | None = None
        self._closed = threading.Event()
        self._scripts: dict[str, Any] = {}

    @property
    def is_degraded(self) -> bool:
        return self.away or bool(self.journal.keys)

    def ping(self) -> None:
        self._ask(lambda client: client.ping())

    # --- what a cache does

    def read(self, keys: list[str]) -> dict[str, Found]:
        """Return what counts of `keys`."""
        if not self.journal.keys.keys().isdisjoint(keys):
            raise Away

        def ask(client: Any) -> list[bytes | None]:
            answer = client.mget([lua_scripts.GENERATION_KEY, *keys])
            if not isinstance(answer, list) or len(answer) != len(keys) + 1:
                raise Nonsense(answer)
            if not all(isinstance(text, bytes | None) for text in answer):
                raise Nonsense(answer)
            return answer

        generation, *values = self._ask(ask)
        self._generation = generation or b""
        found: dict[str, Found] = {}
        for key, text in zip(keys, values, strict=True):
            if text is None:
                continue
            if lua_scripts.COUNTER.match(text):
                found[key] = Found(int(text), None)
            elif not (value := lua_scripts.VALUE.match(text)):
                self.drop_poisoned(key)
            elif value[1] == generation:
                found[key] = Found(value[3], int(value[2]) if value[2] else None)
        return found

    def store(self, values: Mapping[str, bytes], ttl: str) -> None:
        keys = list(values)
        try:
            self._write(lua_scripts.STORE, keys, ttl, *values.values())
        except Full:
            # The old value must not stay.
            self.delete(keys)
            raise
        except Away:
            self.note(keys)
            raise

    def add(self, key: str, value: bytes, ttl: str, is_counter: bool) -> bool:
        if key in self.journal.keys:
            raise Away
        written = self._write(lua_scripts.ADD, [key], ttl, value, int(is_counter))
        return bool(written[0]) if written else False

    def increment(self, key: str, delta: int, ttl: str) -> int | None:
        if key in self.journal.keys:
            raise Away
        count: int | None = self._run(
            lua_scripts.INCREMENT, _is_count, [key], delta, ttl
        )
        return count

    def touch(self, key: str, ttl: str) -> bool:
        if key in self.journal.keys:
            raise Away
        return bool(self._run(lua_scripts.TOUCH, _is_count, [key], ttl))

    def delete(self, keys: list[str]) -> int:
        try:
            return self._ask(partial(_delete, keys))
        except Away:
            self.note(keys)
            raise

    def drop_poisoned(self, key: str) -> None:
        self.poisoned += 1
        logger.warning("Dropped a value of the cache that nobody can read: %s", key)
        with suppress(Away):
            self.delete([key])

    def clear(self) -> None:
        try:
            self._ask(lambda client: client.flushdb(asynchronous=True))
        except Away:
            with self._lock:
                self.journal.note_all()
                self.away = True
            self._heal()
            raise

    def note(self, keys: Iterable[str]) -> None:
        with self._lock:
            self.journal.note(keys)
            self.away |= self.journal.overflowed
        self._heal()

    def close(self) -> None:
        """Heal no more."""
        self._closed.set()
        if healer := self._healer:
            healer.join()

    # --- how Redis is asked

    def _write(self, text: str, keys: list[str], *arguments: Any) -> list[Any]:
        """Run a script in this process's generation, or in the one it finds."""
        for _ in range(2):
            generation, written, *rest = self._run(
                text, _is_written, keys, self._generation, *arguments
            )
            self._generation = generation
            if written:
                return list(rest)
        return []

    def _run(self, text: str, fits: Fits, keys: list[str], *arguments: Any) -> Any:
        return self._ask(partial(self._run_script, text, fits, keys, arguments))

    def _run_script(
        self,
        text: str,
        fits: Fits,
        keys: list[str],
        arguments: Iterable[Any],
        client: Any,
    ) -> Any:
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = client.register_script(
                lua_scripts.PRELUDE + text
            )
        keys = [lua_scripts.GENERATION_KEY, *keys]
        answer = script(keys, [secrets.token_hex(8), *arguments], client)
        if not fits(answer):
            raise Nonsense(answer)
        return answer

    def _ask[T](self, ask: Callable[[Any], T]) -> T:
        if self.away:
            self._heal()
            raise Away
        return self._ask_now(ask)

    def _ask_now[T](self, ask: Callable[[Any], T]) -> T:
        if is_spent():
            raise Away
        try:
            with self._breaker.guard(), question(self.budget_s * WAITED):
                try:
                    if self._client is None:
                        self._client = self._connect()
                    with tracing.inside("redis"):
                        return ask(self._client)
                except Exception as error:
                    if not _is_full(error):
                        raise
                    full = error  # an answer like another: it is there
        except Exception as error:  # noqa: BLE001 - nothing Redis does may get out
            self._fail(error)
            raise Away from None
        self.errors += 1
        raise Full from full

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, BreakerOpen):
            self.errors += 1
            if self._client is not None:
                # Answers to questions given up may be on their way to others.
                self._client.connection_pool.disconnect(inuse_connections=False)
        if self._breaker.state is not State.CLOSED:
            self.away = True
            self._heal()

    # --- the thread that heals

    def _heal(self) -> None:
        if self._healer is not None or self._closed.is_set():
            return
        with self._lock, suppress(RuntimeError):  # at the end of the process
            if self._healer is None:
                healer = threading.Thread(
                    target=self._run_healer, name="cache-healer", daemon=True
                )
                healer.start()
                self._healer = healer

    def _run_healer(self) -> None:
        pause_s = PAUSE_S
        while True:
            longer_s = min(self._breaker.retry_after_s, 1.0)
            if self._closed.wait(max(pause_s, longer_s)):
                return
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
            try:
                self._tell()
                self._end_outage()
            except Away:
                continue
            except Exception:
                logger.exception("Healing the cache failed; it is tried again.")
                continue
            with self._lock:
                if not self.away and not self.journal.keys:
                    self._healer = None
                    return

    def _tell(self) -> None:
        """Delete in Redis what could not be deleted there when it changed."""
        with self._lock:
            changes = list(self.journal.keys.items())
        for batch in batched(changes, BATCH):
            self._ask_now(partial(_delete, [key for key, _ in batch]))
            with self._lock:
                self.journal.settle(dict(batch))

    def _end_outage(self) -> None:
        if not self.away:
            return
        journal = self.journal
        with self._lock:
            flush, lost = journal.all, journal.overflowed
            journal.all = journal.overflowed = False
        try:
            if flush:
                self._ask_now(lambda client: client.flushdb(asynchronous=True))
            # Another process may have begun one meanwhile: once is enough for all,
            # unless keys of this one are lost.
            self._begin_generation(b"" if lost else self._generation)
        except Away:
            with self._lock:
                journal.all |= flush
                journal.overflowed |= lost
            raise
        with self._lock:
            self.away = journal.all or journal.overflowed
        logger.info("The cache is in use again.")

    def _begin_generation(self, ended: bytes) -> None:
        move = partial(self._run_script, lua_scripts.MOVE, _is_word, [], [ended])
        try:
            self._generation = self._ask_now(move)
        except Full:
            # Without one no value counts either.
            self._ask_now(partial(_delete, [lua_scripts.GENERATION_KEY]))


def _is_count(answer: Any) -> bool:
    return isinstance(answer, int | None)


def _is_word(answer: Any) -> bool:
    return isinstance(answer, bytes)


def _is_written(answer: Any) -> bool:
    return isinstance(answer, list) and len(answer) > 1 and _is_word(answer[0])


def _is_full(error: Exception) -> bool:
    from redis.exceptions import OutOfMemoryError  # takes long: not without Redis

    return isinstance(error, OutOfMemoryError)


def _delete(keys: list[str], client: Any) -> int:
    return int(client.delete(*keys))


instances: weakref.WeakSet[Remote] = weakref.WeakSet()


def _unlock_in_child() -> None:
    # Threads do not come along; the child's first question starts its own.
    for remote in instances:
        remote._unlock()
        if remote._client is not None:
            remote._client = None


os.register_at_fork(after_in_child=_unlock_in_child)
