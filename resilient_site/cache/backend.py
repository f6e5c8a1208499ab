"""Django cache in Redis that keeps answering when Redis does not.

django-redis with socket timeouts, one circuit breaker in front of all aliases, and
process memory behind it. While Redis is dead, hung, slow, read-only or full, reads and
writes go to process memory: callers see misses, never an exception or a long wait (two
socket timeouts at most, and none while the breaker is open).

Nothing stale comes back afterwards. Keys that could not be changed in Redis are deleted
there before the next call. After an outage the generation, which is part of every key,
is replaced: another process may have ended with its list of such keys. All processes
take up a new generation within a second.

Not handled: a host name whose resolver hangs, and a server that sends its reply byte by
byte; the timeouts of sockets bound neither. django-redis's own methods (`ttl`, `lock`,
`keys`, sets ...) raise, as its documentation says.
"""

import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django_redis.cache import RedisCache
from django_redis.util import CacheKey
from redis.exceptions import OutOfMemoryError

from resilient_site.cache.memory import MemoryCache
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import BreakerOpen, State

GENERATION_KEY = CacheKey("resilient-site:cache-generation")
REFRESH_S = 1.0
MAX_MISSED = 10_000
# Errors with which Redis has answered: the breaker does not count them.
ANSWERED = (OutOfMemoryError, ValueError, TypeError, RecursionError)


class CacheUnavailable(Exception):
    """Redis was not asked, or its answer makes no sense."""


class ServerState:
    """What the threads of a process know of one Redis server."""

    def __init__(self) -> None:
        self.generation = ""
        self.refresh_at = 0.0
        # Keys to delete in Redis, with a token for each change.
        self.missed: dict[str, object] = {}
        self.needs_new_generation = False
        self.errors = self.fallbacks = 0
        # Memory that stands in for Redis, cleared when that is not needed any more.
        self.memories: dict[str, MemoryCache] = {}
        self.recovery = threading.Lock()

    @property
    def is_behind(self) -> bool:
        return self.needs_new_generation or bool(self.missed)

    def add_missed(self, keys: Iterable[str]) -> None:
        for key in keys:
            if len(self.missed) >= MAX_MISSED:
                self.needs_new_generation = True
                return
            self.missed[key] = object()


@cache
def server_state(location: str) -> ServerState:
    if not settings.CACHE_BREAKER:
        breakers.cache.override(State.CLOSED)
    return ServerState()


class ResilientRedisCache(RedisCache):  # type: ignore[misc]
    """The backend. OPTIONS: those of django-redis, and MEMORY_BYTES."""

    is_shared = True
    # Without one, values written before an outage count after it.
    uses_generation = True

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        timeout_s = settings.CACHE_TIMEOUT_MS / 1000
        defaults = {
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "SOCKET_CONNECT_TIMEOUT": timeout_s,
            "SOCKET_TIMEOUT": timeout_s,
        }
        options = defaults | params.get("OPTIONS", {})
        params = {**params, "OPTIONS": options}
        self.server_state = server_state(str(server))
        super().__init__(server, params)
        name = f"{server} {params.get('KEY_PREFIX', '')} {options.get('MEMORY_BYTES')}"
        self.memory = MemoryCache(name, params)
        if self.uses_generation:
            self.server_state.memories[name] = self.memory

    @property
    def key_prefix(self) -> str:
        if self.uses_generation:
            return f"{self._key_prefix}{self.server_state.generation}"
        return self._key_prefix

    @key_prefix.setter
    def key_prefix(self, value: str) -> None:
        self._key_prefix = value

    @property
    def is_degraded(self) -> bool:
        """Return whether process memory stands in for Redis, for some keys at least."""
        return self.server_state.is_behind or breakers.cache.state is not State.CLOSED

    def ping(self) -> None:
        """Ask Redis something, so that the breaker and the generation are current."""
        self.server_state.refresh_at = 0.0
        self.has_key("ping")

    # --- Django's interface

    def get(
        self, key: Any, default: Any = None, version: int | None = None, **options: Any
    ) -> Any:
        return self._read("get", [key], version, key, default, version, **options)

    def get_many(
        self, keys: Iterable[Any], version: int | None = None, **options: Any
    ) -> dict[Any, Any]:
        keys = list(keys)
        found: dict[Any, Any]
        found = self._read("get_many", keys, version, keys, version, **options)
        return found

    def has_key(self, key: Any, version: int | None = None, **options: Any) -> bool:
        return bool(self._read("has_key", [key], version, key, version, **options))

    def set(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        **options: Any,
    ) -> bool | None:
        arguments = (key, value, timeout, version)
        done: bool | None = self._write("set", [key], version, *arguments, **options)
        return done

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        **options: Any,
    ) -> list[Any]:
        self._write("set_many", list(data), version, data, timeout, version, **options)
        return []

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        **options: Any,
    ) -> bool:
        arguments = (key, value, timeout, version)
        return bool(self._write("add", [key], version, *arguments, **options))

    def touch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        **options: Any,
    ) -> bool:
        return bool(
            self._write("touch", [key], version, key, timeout, version, **options)
        )

    def incr(
        self, key: Any, delta: int = 1, version: int | None = None, **options: Any
    ) -> int:
        arguments = (key, delta, version)
        count = self._write("incr", [key], version, *arguments, **options)
        if not isinstance(count, int):
            raise ValueError(f"Key {key!r} is not a number")
        return count

    def decr(
        self, key: Any, delta: int = 1, version: int | None = None, **options: Any
    ) -> int:
        return self.incr(key, -delta, version, **options)

    def incr_version(
        self, key: Any, delta: int = 1, version: int | None = None, **options: Any
    ) -> int:
        arguments = (key, delta, version)
        return int(self._write("incr_version", [key], version, *arguments, **options))

    def delete(self, key: Any, version: int | None = None, **options: Any) -> bool:
        return bool(self._write("delete", [key], version, key, version, **options))

    def delete_many(
        self, keys: Iterable[Any], version: int | None = None, **options: Any
    ) -> None:
        keys = list(keys)
        self._write("delete_many", keys, version, keys, version, **options)

    def clear(self) -> None:
        try:
            self._call(super().clear)
            self.server_state.refresh_at = 0.0  # the generation is gone as well
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.needs_new_generation = True
        self.memory.clear()

    def get_with_time(
        self, key: Any, version: int | None = None
    ) -> tuple[Any, float | None]:
        """Return the value and the time of the server's clock; (None, None) without."""
        try:
            found: tuple[Any, float] = self._call(self._get_with_time, key, version)
            return found
        except ANSWERED:
            self._add_missed([key], version)
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.fallbacks += 1
        return None, None

    def _get_with_time(self, key: Any, version: int | None) -> tuple[Any, float]:
        name = self.client.make_key(key, version=version)
        with self.client.get_client(write=True).pipeline() as pipeline:
            data, (seconds, microseconds) = pipeline.get(name).time().execute()
        value = None if data is None else self.client.decode(data)
        return value, seconds + microseconds / 1e6

    # --- Redis, or else process memory

    def _read(
        self,
        name: str,
        keys: list[Any],
        version: int | None,
        *args: Any,
        **options: Any,
    ) -> Any:
        try:
            return self._call(getattr(super(), name), *args, **options)
        except ANSWERED:
            # A value that cannot be decoded: a miss, and deleted by the next call.
            self._add_missed(keys, version)
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.fallbacks += 1
        return getattr(self.memory, name)(*args)

    def _write(
        self,
        name: str,
        keys: list[Any],
        version: int | None,
        *args: Any,
        **options: Any,
    ) -> Any:
        try:
            return self._call(getattr(super(), name), *args, **options)
        except (ValueError, TypeError, RecursionError) as error:
            if name == "incr":
                raise ValueError(f"Key {keys[0]!r} is not a number") from error
            raise  # the caller's: a value that is not JSON, or no such key
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.fallbacks += 1
        self._add_missed(keys, version)
        if options.get("nx"):
            name = "add"
        return getattr(self.memory, name)(*args)

    def _call(self, method: Any, *args: Any, **options: Any) -> Any:
        """Call django-redis through the breaker. Raises what that raises."""
        state = self.server_state
        if state.is_behind and state.recovery.locked():
            raise CacheUnavailable("Another thread deletes what is outdated.")
        answer: Exception
        try:
            with breakers.cache.guard():
                try:
                    self._synchronize()
                    return method(*args, **options)
                except ANSWERED as error:
                    answer = error
        except BreakerOpen:
            state.needs_new_generation = True
            raise
        except Exception:
            state.errors += 1
            raise
        raise answer

    def _add_missed(self, keys: Iterable[Any], version: int | None) -> None:
        if self.uses_generation:
            names = [self.make_key(key, version=version) for key in keys]
            self.server_state.add_missed(names)

    def _synchronize(self) -> None:
        """Take up the generation, and delete from Redis what could not be changed."""
        state = self.server_state
        is_due = state.is_behind or time.monotonic() >= state.refresh_at
        if not is_due or not state.recovery.acquire(blocking=False):
            return
        try:
            was_behind, missed = state.is_behind, dict(state.missed)
            generation = self._current_generation()
            if state.needs_new_generation and (
                missed or generation == state.generation
            ):
                generation = secrets.token_hex(4)
                self.client.set(GENERATION_KEY, generation, timeout=None)
            elif missed:
                self.client.delete_many([CacheKey(key) for key in missed])
            state.generation = generation
            state.needs_new_generation = False
            state.refresh_at = time.monotonic() + REFRESH_S
            if was_behind:
                for memory in list(state.memories.values()):
                    memory.clear()
            for key, change in missed.items():
                if state.missed.get(key) is change:
                    del state.missed[key]
        except ANSWERED as error:
            raise CacheUnavailable from error
        finally:
            state.recovery.release()

    def _current_generation(self) -> str:
        new = secrets.token_hex(4)
        try:
            found = self.client.get(GENERATION_KEY)
        except (ValueError, TypeError):  # somebody else's value
            self.client.delete(GENERATION_KEY)
            found = None
        if found is None:
            # Two processes may be here at once: the first one to write decides.
            self.client.set(GENERATION_KEY, new, timeout=None, nx=True)
            found = self.client.get(GENERATION_KEY)
        return str(found or new)
