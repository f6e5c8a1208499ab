"""Django cache in Redis that keeps answering when Redis does not.

django-redis with socket timeouts, one circuit breaker in front of all aliases, and
process memory behind it. While Redis is dead, hung, slow, read-only or full, reads and
writes go to process memory: callers see misses, never an exception or a long wait (two
socket timeouts at most, and none while the breaker is open).

Nothing stale comes back afterwards. Keys that could not be changed in Redis are deleted
there before the next call. After an outage the generation, which is part of the keys,
is replaced: another process may have ended with its list of such keys. All processes
take up a new generation within a second. Counters, and values that say themselves
whether they are current, have no generation in their keys (USES_GENERATION).

A time-out counts as a failure of Redis only where this machine runs its threads in
time: under a full load it says nothing about Redis.

Not handled: a host name whose resolver hangs, and a server that sends its reply byte by
byte; the timeouts of sockets bound neither. django-redis's own methods (`ttl`, `lock`,
`keys`, sets ...) raise, as its documentation says.
"""

import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from inspect import signature
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import BaseCache
from django_redis.cache import RedisCache
from django_redis.exceptions import ConnectionInterrupted
from django_redis.util import CacheKey
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeout

from resilient_site.cache.memory import MemoryCache
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import BreakerOpen, Inconclusive, State

GENERATION_KEY = CacheKey("resilient-site:cache-generation")
REFRESH_S = 1.0
MAX_MISSED = 10_000
# A thread that sleeps so long, and wakes up later than that by more, is starved.
NAP_S = 0.005
STARVED_S = 0.005
# So many time-outs in a row count, however loaded the machine is.
MAX_INCONCLUSIVE = 10
# Errors of values, which the breaker does not count, and of a Redis that is full.
NOT_DECODED = (ValueError, TypeError, RecursionError)
ANSWERED = (OutOfMemoryError, *NOT_DECODED)


class CacheUnavailable(Exception):
    """Redis was not asked, or its answer makes no sense."""


def is_starved() -> bool:
    """Return whether threads of this process wait for a processor, or each other."""
    began = time.monotonic()
    time.sleep(NAP_S)
    return time.monotonic() - began - NAP_S > STARVED_S


class ServerState:
    """What the threads of a process know of one Redis server."""

    def __init__(self) -> None:
        self.generation = ""
        self.refresh_at = 0.0
        # Keys to delete in Redis, with a token for each change.
        self.missed: dict[str, object] = {}
        self.needs_new_generation = False
        self.errors = self.fallbacks = 0
        # Time-outs in a row while the machine was starved.
        self.inconclusive = 0
        # Memory that stands in for Redis, cleared when that is not needed any more.
        self.memories: dict[str, MemoryCache] = {}
        self.recovery = threading.Lock()

    @property
    def is_behind(self) -> bool:
        return self.needs_new_generation or bool(self.missed)


@cache
def server_state(location: str) -> ServerState:
    return ServerState()


def _guarded(name: str, *, is_write: bool = False) -> Any:
    """Return the method `name` of Django's cache, with process memory behind it."""

    @wraps(getattr(BaseCache, name))
    def method(self: "ResilientRedisCache", *args: Any, **options: Any) -> Any:
        if name.endswith("_many"):
            named = "data" if name == "set_many" else "keys"
            values = args[0] if args else options.pop(named)
            # A fallback iterates once more.
            values = values if isinstance(values, Mapping) else list(values)
            args = (values, *args[1:])
        found = self._call_or_fall_back(name, is_write, args, options)
        return [] if name == "set_many" else found

    return method


class ResilientRedisCache(RedisCache):  # type: ignore[misc]
    """The backend. OPTIONS: those of django-redis, MEMORY_BYTES and USES_GENERATION."""

    is_shared = True
    key_func: Any

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        timeout_s = settings.CACHE_TIMEOUT_MS / 1000
        options = {
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "SOCKET_CONNECT_TIMEOUT": timeout_s,
            "SOCKET_TIMEOUT": timeout_s,
            "CONNECTION_POOL_KWARGS": {"socket_keepalive": True},
            **params.get("OPTIONS", {}),
        }
        params = {**params, "OPTIONS": options}
        self.server_state = state = server_state(str(server))
        super().__init__(server, params)
        name = f"{server} {params.get('KEY_PREFIX', '')} {options.get('MEMORY_BYTES')}"
        self.memory = MemoryCache(name, params)
        # Without one, values written before an outage count after it.
        self._uses_generation = options.get("USES_GENERATION", True)
        if self._uses_generation:
            state.memories[name] = self.memory
            key_func = self.key_func
            self.key_func = lambda key, prefix, version: key_func(
                key, f"{prefix}{state.generation}", version
            )

    @property
    def is_degraded(self) -> bool:
        """Return whether process memory stands in for Redis, for some keys at least."""
        return self.server_state.is_behind or breakers.cache.state is not State.CLOSED

    def ping(self) -> None:
        """Ask Redis something, so that the breaker and the generation are current."""
        self.server_state.refresh_at = 0.0
        self.has_key("ping")

    get = _guarded("get")
    get_many = _guarded("get_many")
    has_key = _guarded("has_key")
    set = _guarded("set", is_write=True)
    set_many = _guarded("set_many", is_write=True)
    add = _guarded("add", is_write=True)
    touch = _guarded("touch", is_write=True)
    incr = _guarded("incr", is_write=True)
    decr = BaseCache.decr
    incr_version = _guarded("incr_version", is_write=True)
    delete = _guarded("delete", is_write=True)
    delete_many = _guarded("delete_many", is_write=True)

    def clear(self) -> None:
        try:
            self._call(super().clear)
            self.server_state.refresh_at = 0.0  # the generation is gone as well
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.needs_new_generation = True
        self.memory.clear()

    def void(self) -> None:
        """Take out of use all that Redis holds under keys with a generation."""
        self.server_state.needs_new_generation = True
        self.ping()

    def get_many_with_time(
        self, keys: Sequence[Any]
    ) -> tuple[dict[Any, Any], float | None]:
        """Return the values, and the time of the server's clock; ({}, None) without."""
        try:
            values, clock_s = self._call(self._get_many_with_time, keys)
            return values, clock_s
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.fallbacks += 1
            return {}, None

    def _get_many_with_time(self, keys: Sequence[Any]) -> tuple[dict[Any, Any], float]:
        names = [self.client.make_key(key) for key in keys]
        with self.client.get_client(write=True).pipeline(transaction=False) as pipeline:
            found, (seconds, microseconds) = pipeline.mget(names).time().execute()
        values = {}
        for key, data in zip(keys, found, strict=True):
            if data is not None:
                with suppress(*NOT_DECODED):
                    values[key] = self.client.decode(data)
        return values, seconds + microseconds / 1e6

    # --- Redis, or else process memory

    def _call_or_fall_back(
        self, name: str, is_write: bool, args: Any, options: dict[str, Any]
    ) -> Any:
        """Call the method of django-redis, or else that of process memory."""
        is_missed = is_write and self._uses_generation
        try:
            return self._call(getattr(super(), name), *args, **options)
        except NOT_DECODED as error:
            if name == "incr":
                raise ValueError("The value is not a number.") from error
            if is_write:
                raise  # the caller's: a value that is not JSON, or no such key
            is_missed = True  # deleted by the next call, or each call would meet it
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.fallbacks += 1
        if options.pop("nx", False):
            name = "add"
        method = getattr(self.memory, name)
        parameters = signature(method)
        known = {k: v for k, v in options.items() if k in parameters.parameters}
        bound = parameters.bind(*args, **known).arguments
        if is_missed:
            keys = args[0] if name.endswith("_many") else [bound["key"]]
            self._add_missed(keys, bound.get("version"))
        return method(*args, **known)

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
                    found = method(*args, **options)
                except ANSWERED as error:
                    answer = error
                except (RedisTimeout, ConnectionInterrupted) as error:
                    self._excuse(error)
                    raise
                else:
                    state.inconclusive = 0
                    return found
        except BreakerOpen:
            state.needs_new_generation = True
            raise
        except Exception:
            state.errors += 1
            raise
        raise answer

    def _excuse(self, error: Exception) -> None:
        """Raise Inconclusive if it is a time-out that need not be Redis's failure."""
        state = self.server_state
        # The interface of Django raises the cause, and the client of Redis this.
        wraps = isinstance(error, ConnectionInterrupted)
        if not isinstance(error.__cause__ if wraps else error, RedisTimeout):
            return
        if state.inconclusive < MAX_INCONCLUSIVE and is_starved():
            state.inconclusive += 1
            raise Inconclusive from error

    def _add_missed(self, keys: Iterable[Any], version: int | None = None) -> None:
        state = self.server_state
        for key in keys:
            if len(state.missed) >= MAX_MISSED:
                state.needs_new_generation = True
                return
            state.missed[self.make_key(key, version=version)] = object()

    def _synchronize(self) -> None:
        """Take up the generation, and delete from Redis what could not be changed."""
        state = self.server_state
        is_due = state.is_behind or time.monotonic() >= state.refresh_at
        if not is_due or not state.recovery.acquire(blocking=False):
            return
        try:
            was_behind, missed = state.is_behind, dict(state.missed)
            generation = self._current_generation()
            is_unchanged = missed or generation == state.generation
            if state.needs_new_generation and is_unchanged:
                generation = secrets.token_hex(4)
                self.client.set(GENERATION_KEY, generation, timeout=None)
            if missed:
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
        try:
            found = self.client.get(GENERATION_KEY)
        except NOT_DECODED:  # another client's value
            self.client.delete(GENERATION_KEY)
            found = None
        if found is None:
            # Two processes may be here at once: the first one to write decides.
            new = secrets.token_hex(4)
            self.client.set(GENERATION_KEY, new, timeout=None, nx=True)
            found = self.client.get(GENERATION_KEY) or new
        return str(found)
