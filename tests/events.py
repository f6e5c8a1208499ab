"""Another system, which takes the events of the site from the broker."""

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field

import kombu

from items.events.publisher import ERRORS, EXCHANGE

# One consumer at a time: else what a lost connection has not acknowledged comes after
# what the next one takes. So the broker has to notice that a connection is lost.
QUEUE = kombu.Queue(
    "copies",
    EXCHANGE,
    routing_key="resilient-site.item.*",
    queue_arguments={"x-single-active-consumer": True},
)
HEARTBEAT_S = 60


@dataclass
class Consumer:
    """Takes what comes, in a thread, through any outage of the broker."""

    url: str
    # Twice as long without one, and the broker sends again what is not acknowledged.
    heartbeat_s: int = HEARTBEAT_S
    bodies: list[dict] = field(default_factory=list)
    types: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        with kombu.Connection(self.url) as broker:
            QUEUE.bind(broker.default_channel).declare()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stopping.is_set():
            options = {"heartbeat": self.heartbeat_s}
            with suppress(*ERRORS), kombu.Connection(self.url, **options) as broker:
                broker.ensure_connection(timeout=2)
                queue = QUEUE.bind(broker.default_channel)
                with kombu.Consumer(broker, [queue], on_message=self._take):
                    while not self.stopping.is_set():
                        broker.heartbeat_check()
                        with suppress(TimeoutError):
                            broker.drain_events(timeout=0.2)
            self.stopping.wait(0.1)

    def _take(self, message) -> None:
        self.bodies.append(json.loads(message.body))
        self.types.add(message.content_type)
        message.ack()

    def ids(self) -> list[str]:
        return [body["id"] for body in self.bodies]

    def close(self) -> None:
        self.stopping.set()
        self.thread.join(10)
