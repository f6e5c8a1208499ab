"""Invalidations between machines, by pub/sub of Redis.

A commit only hands its tags to a thread that publishes them. What cannot be published
is kept and tried again; more tags than `MAX_TAGS` become `EVERYTHING`. A subscriber
that may have missed messages invalidates everything. Without Redis, other machines see
a change when their responses are no longer fresh (`cache_control.FRESH_S`). Where Redis
fails for the changing machine alone, the others do not know that they miss messages:
they may send a response that is outdated once more, while they revalidate it.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson
from django.conf import settings

from resilient_site.edge.cache import invalidation
from resilient_site.edge.cache.invalidation import EVERYTHING

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

CHANNEL = "resilient-site:changed"
# More tags than this are more than all that is cached.
MAX_TAGS = 5_000
TIMEOUT_S = 1.0
RETRY_S = 0.1
MAX_RETRY_S = 1.0
# What is invalidated within so long after a message goes into the next one.
BATCH_S = 0.05
# How long a process that ends waits for what is not published yet.
EXIT_TIMEOUT_S = 1.0


def connect() -> "Redis":
    from redis import Redis  # slow to import: only where there is a Redis

    return Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        socket_keepalive=True,
    )


class Publisher:
    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # A child has no thread to publish with, and the parent publishes its own tags.
        self._tags: set[str] = set()
        self._is_publishing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def publish(self, tags: Iterable[str]) -> None:
        """Have the tags published soon; wait for nothing."""
        with self._changed:
            self._add(tags)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="invalidation-publisher", daemon=True
                )
                self._thread.start()

    def flush(self, timeout_s: float = EXIT_TIMEOUT_S) -> bool:
        """Wait until all is published; return whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._tags and not self._is_publishing, timeout_s
            )

    def _add(self, tags: Iterable[str]) -> None:
        self._tags.update(tags)
        if len(self._tags) > MAX_TAGS:
            self._tags = {EVERYTHING}
        self._changed.notify_all()

    def _run(self) -> None:
        client, retry_s = connect(), RETRY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._tags))
                tags, self._tags, self._is_publishing = self._tags, set(), True
            is_published = self._send(client, tags)
            with self._changed:
                if not is_published:
                    self._add(tags)
                self._is_publishing = False
                self._changed.notify_all()
            time.sleep(BATCH_S if is_published else retry_s)
            retry_s = RETRY_S if is_published else min(retry_s * 2, MAX_RETRY_S)

    def _send(self, client: "Redis", tags: Iterable[str]) -> bool:
        try:
            client.publish(CHANNEL, orjson.dumps(sorted(tags)))
        except Exception:  # noqa: BLE001 - no reply of Redis may end the thread
            client.connection_pool.disconnect()  # a late reply would be to another
            return False  # the circuit breaker of the cache logs the outage
        return True


class Subscriber:
    def __init__(self) -> None:
        self.is_subscribed = threading.Event()
        self._subscribed_at = 0
        self._stopping = threading.Event()

    def start(self) -> None:
        self._stopping.clear()
        threading.Thread(
            target=self._run, name="invalidation-subscriber", daemon=True
        ).start()

    def stop(self) -> None:
        self._stopping.set()

    def was_subscribed_at(self, moment: int) -> bool:
        """Return whether every invalidation after `moment` was received."""
        return self.is_subscribed.is_set() and self._subscribed_at <= moment

    def _run(self) -> None:
        retry_s, has_missed = RETRY_S, False
        while not self._stopping.is_set():
            try:
                self._receive(has_missed)
            except Exception as error:  # noqa: BLE001 - as above
                if self.is_subscribed.is_set() or not has_missed:
                    message = "Invalidations of other machines are not received: %s"
                    logger.warning(message, error)
                    has_missed, retry_s = True, RETRY_S
                self.is_subscribed.clear()
            self._stopping.wait(retry_s)
            retry_s = min(retry_s * 2, MAX_RETRY_S)

    def _receive(self, has_missed: bool) -> None:
        with connect() as client, client.pubsub() as channel:
            channel.subscribe(CHANNEL)
            is_silent = False
            while not self._stopping.is_set():
                message = channel.get_message(timeout=TIMEOUT_S)
                if message is None:
                    if is_silent:
                        raise TimeoutError("no reply to a ping")
                    channel.ping()
                is_silent = message is None
                if message and message["type"] == "subscribe":
                    self._on_subscribed(has_missed)
                elif message and message["type"] == "message":
                    apply_message(message["data"])

    def _on_subscribed(self, has_missed: bool) -> None:
        if has_missed:
            logger.warning("Invalidations of other machines are received again.")
            invalidation.invalidations.record([EVERYTHING])
        self._subscribed_at = invalidation.now()
        self.is_subscribed.set()


def receives_all_invalidations() -> bool:
    """Return whether an invalidation on any machine is known here within a second."""
    return settings.EMBEDDED or subscriber.is_subscribed.is_set()


def apply_message(data: bytes) -> None:
    try:
        tags = orjson.loads(data)
        invalidation.invalidations.record(map(str, tags))
    except (orjson.JSONDecodeError, TypeError):
        logger.warning("A message is no list of tags: %.100r", data)


publisher = Publisher()
subscriber = Subscriber()


def start_publishing() -> None:
    """Publish what this process invalidates from here on."""
    if settings.REDIS_URL and publisher.publish not in invalidation.listeners:
        invalidation.listeners.append(publisher.publish)
        atexit.register(publisher.flush)
