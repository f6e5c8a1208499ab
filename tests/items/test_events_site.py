"""The event relay of a running site."""

import json
import shutil
import sqlite3
from contextlib import closing

import kombu
import pytest

from items.events.publisher import EXCHANGE
from tests.private_server import wait_for
from tests.running import Site, admin_token, first_start

pytestmark = pytest.mark.once

ITEM = "country.DE"
QUEUE = kombu.Queue("site", EXCHANGE, routing_key="#")


def test_serve_publishes_events_and_restarts_a_killed_relay(rabbitmq_server, tmp_path):
    site = Site(tmp_path, EVENTS_URL=rabbitmq_server.url())
    with kombu.Connection(rabbitmq_server.url()) as broker:
        queue = QUEUE.bind(broker.default_channel)
        queue.delete()
        queue.declare()
        shutil.copy(first_start() / "site.sqlite3", tmp_path)
        # The relay begins with all of the change log: let it be short.
        file = tmp_path / "site.sqlite3"
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("DELETE FROM items_itemchange WHERE item_id != ?", [ITEM])
        site.start()
        try:
            expected = wait_for(lambda: published(queue, "Germany"))
            assert expected["type"] == "resilient-site.item.created"
            (relay,) = site._having("relay_events")
            relay.kill()
            wait_for(lambda: [p for p in site._having("relay_events") if p != relay])
            headers = {"Authorization": f"Token {admin_token()}"}
            site.request("PATCH", f"/api/v1/items/{ITEM}", {"name": "New"}, headers)
            event = wait_for(lambda: published(queue, "New"))
            assert event["subject"] == ITEM
            verbose = site.get("/readyz?verbose").json()
            assert "events" in verbose["checks"]
        finally:
            site.stop()


def published(queue: kombu.Queue, name: str) -> dict | None:
    """Return the first event about an item of this name; None without one."""
    while message := queue.get(no_ack=True):
        event = json.loads(message.body)
        if event["data"]["after"]["name"] == name:
            return event
    return None
