"""Tells other machines, over Redis, what has changed here, and hears what has there.

Beside the requests: a commit only puts its tags down for a thread to publish. What
cannot be published is kept and tried again. Whoever may have missed something takes
everything for changed. Without Redis others see a change when their copies have served
their time (`sharing.FRESH_S`). If Redis is away for the machine alone that changes
something, those who hear all the others show an old copy once more, to the first who
asks for it within `sharing.STALE_S`.
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
# More names than this are more than all that is kept.
TAGS_MAX = 5_000
TIMEOUT_S = 1.0
PAUSE_S = 0.1
PAUSE_MAX_S = 1.0
# What changes within so long after a message goes into the next one.
GATHER_S = 0.05
# A process that ends waits so long for what it has still to say.
LAST_WORDS_S = 1.0


def connect() -> "Redis":
    from redis import Redis  # takes long: not without Redis

    return Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        socket_keepalive=True,
    )


class Publisher:
    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # A thread does not come along into a child, nor does what it has to do.
        self._tags: set[str] = set()
        self._is_publishing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def tell(self, tags: Iterable[str]) -> None:
        """Have it published soon. Waits for nothing."""
        with self._changed:
            self._put_down(tags)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="publisher", daemon=True
                )
                self._thread.start()

    def flush(self, within_s: float = LAST_WORDS_S) -> bool:
        """Wait until all is published; tell whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._tags and not self._is_publishing, within_s
            )

    def _put_down(self, tags: Iterable[str]) -> None:
        self._tags.update(tags)
        if len(self._tags) > TAGS_MAX:
            self._tags = {EVERYTHING}
        self._changed.notify_all()

    def _run(self) -> None:
        client, pause_s = connect(), PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._tags))
                tags, self._tags, self._is_publishing = self._tags, set(), True
            is_done = self._publish(client, tags)
            with self._changed:
                if not is_done:
                    self._put_down(tags)
                self._is_publishing = False
                self._changed.notify_all()
            time.sleep(GATHER_S if is_done else pause_s)
            pause_s = PAUSE_S if is_done else min(pause_s * 2, PAUSE_MAX_S)

    def _publish(self, client: "Redis", tags: Iterable[str]) -> bool:
        try:
            client.publish(CHANNEL, orjson.dumps(sorted(tags)))
        except Exception:  # noqa: BLE001 - nothing Redis says may end the thread
            client.connection_pool.disconnect()  # its answers may be to other questions
            return False  # the breaker of the cache says it for all
        return True


class Subscriber:
    def __init__(self) -> None:
        self.is_listening = threading.Event()
        self._listening_since = 0
        self._stopping = threading.Event()

    def start(self) -> None:
        self._stopping.clear()
        threading.Thread(target=self._run, name="subscriber", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def has_listened_since(self, moment: int) -> bool:
        """Return whether every change after `moment` was heard of."""
        return self.is_listening.is_set() and self._listening_since <= moment

    def _run(self) -> None:
        pause_s, has_missed = PAUSE_S, False
        while not self._stopping.is_set():
            try:
                self._listen(has_missed)
            except Exception as error:  # noqa: BLE001 - as above
                if self.is_listening.is_set() or not has_missed:
                    logger.warning("Changes on other machines are not heard: %s", error)
                    has_missed, pause_s = True, PAUSE_S
                self.is_listening.clear()
            self._stopping.wait(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    def _listen(self, has_missed: bool) -> None:
        with connect() as client, client.pubsub() as channel:
            channel.subscribe(CHANNEL)
            is_silent = False
            while not self._stopping.is_set():
                message = channel.get_message(timeout=TIMEOUT_S)
                if message is None:
                    if is_silent:
                        raise TimeoutError("No answer")
                    channel.ping()
                is_silent = message is None
                if message and message["type"] == "subscribe":
                    self._begin_listening(has_missed)
                elif message and message["type"] == "message":
                    heard(message["data"])

    def _begin_listening(self, has_missed: bool) -> None:
        if has_missed:
            logger.warning("Changes on other machines are heard again.")
            invalidation.generations.renew([EVERYTHING])
        self._listening_since = invalidation.now()
        self.is_listening.set()


def hears_all() -> bool:
    """Tell whether what changes on any machine is heard of here at once."""
    return settings.EMBEDDED or subscriber.is_listening.is_set()


def heard(data: bytes) -> None:
    try:
        tags = orjson.loads(data)
        invalidation.generations.renew(map(str, tags))
    except (orjson.JSONDecodeError, TypeError):
        logger.warning("Something else than changes is told: %.100r", data)


publisher = Publisher()
subscriber = Subscriber()


def begin() -> None:
    """Publish what this process changes from here on."""
    if settings.REDIS_URL and publisher.tell not in invalidation.listeners:
        invalidation.listeners.append(publisher.tell)
        atexit.register(publisher.flush)
