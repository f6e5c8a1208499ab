"""Measure what an item, a read and a write cost: `python -m tests.load.sizes [ITEMS]`.

Bytes, processor time and connections, which other programs of the machine hardly
change; the figures of deploy/capacity.md.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import psycopg
import redis
from kombu import Connection, Exchange, Queue

from tests.load.bench.catalogue import Catalogue
from tests.load.testbed import Program, Testbed
from tests.private_server import wait_for
from tests.servers import RabbitMQ

TABLES = (
    "items_item", "items_itemtag", "items_itemlink", "items_itemchange",
)  # fmt: skip
CALLS = 500
SETTLE_S = 3.0


class Probe:
    def __init__(self, testbed: Testbed, catalogue: Catalogue) -> None:
        self.catalogue, self.site = catalogue, catalogue.site
        self.database = psycopg.connect(
            self.site.env["DATABASE_URL"], autocommit=True, application_name="sizes"
        )
        self.redis = redis.Redis.from_url(testbed.redis.url())
        self.connection = http.client.HTTPConnection(self.site.host, self.site.port)
        self.token = {"Authorization": catalogue.peer.authorization}
        self.numbers = random.Random(1)

    def one(self, statement: str) -> Any:
        found = self.database.execute(statement).fetchone()
        assert found
        return found[0]

    def call(
        self, method: str, path: str, body: Any = None, headers: Any = None
    ) -> bytes:
        """Return the body; the headers' size is in `head`."""
        raw = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if raw else {}
        self.connection.request(method, path, raw, kind | (headers or {}))
        response = self.connection.getresponse()
        assert response.status < 300, response.read()
        self.head = sum(len(n) + len(v) + 4 for n, v in response.getheaders())
        return response.read()

    def item(self) -> str:
        return f"/api/v1/items/load-{self.numbers.randrange(self.catalogue.size)}"

    @contextmanager
    def cost(self, name: str, calls: int = CALLS) -> Iterator[None]:
        """Print what each call of the block has cost, after the background has."""
        processes = {"web": self.site.processes}
        processes["postgres"] = self.catalogue.testbed.postgres.processes
        # What they do anyway is not the calls'.
        idle = {one: -busy_s(found()) for one, found in processes.items()}
        time.sleep(SETTLE_S)
        before = {one: busy_s(found()) for one, found in processes.items()}
        start, commits = self.one("SELECT pg_current_wal_lsn()"), self.commits()
        images = self.one("SELECT wal_fpi FROM pg_stat_wal")
        commands = self.redis.info("stats")["total_commands_processed"]
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        wal = self.one(f"SELECT pg_current_wal_lsn() - '{start}'::pg_lsn")
        time.sleep(SETTLE_S)
        print(f"\n{name}: {took / calls * 1000:.1f} ms each, one after the other")
        for one, found in processes.items():
            anyway = (idle[one] + before[one]) * (1 + took / SETTLE_S)
            busy = busy_s(found()) - before[one] - anyway
            print(f"  {one}: {busy / calls * 1000:.2f} ms cpu")
        print(f"  WAL: {wal / calls:,.0f} bytes")
        images = self.one("SELECT wal_fpi FROM pg_stat_wal") - images
        print(f"  full-page images: {images / calls:.2f}")
        print(f"  commits: {(self.commits() - commits) / calls:.2f}")
        commands = self.redis.info("stats")["total_commands_processed"] - commands
        print(f"  Redis commands: {commands / calls:.1f}")

    def compress(self) -> None:
        self.database.execute("ALTER SYSTEM SET wal_compression = pglz")
        self.database.execute("SELECT pg_reload_conf()")
        self.database.execute("CHECKPOINT")

    def commits(self) -> int:
        number = self.one("""
            SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()
        """)
        return int(number)

    def print_sizes(self) -> None:
        items, total = self.one("SELECT count(*) FROM items_item"), 0
        print(f"{items:,} items; bytes for each item of the catalogue")
        for table in TABLES:
            if self.one(f"SELECT to_regclass('{table}') IS NULL"):
                continue
            heap = self.one(f"SELECT pg_table_size('{table}')")
            indexes = self.one(f"SELECT pg_indexes_size('{table}')")
            rows = self.one(f"SELECT count(*) FROM {table}")
            total += heap + indexes
            each = (
                f"{heap / items:,.0f} in the table, {indexes / items:,.0f} in indexes"
            )
            print(f"  {table}: {each}, {rows / items:.2f} rows")
        print(f"  together: {total / items:,.0f}")
        for name, size in self.database.execute("""
            SELECT regexp_replace(indexrelname, 'item_attr_.*', 'of attributes'),
                sum(pg_relation_size(indexrelid))
            FROM pg_stat_user_indexes WHERE relname = 'items_item'
            GROUP BY 1 ORDER BY 2 DESC
        """):
            print(f"    {name}: {size / items:,.0f}")

    def print_connections(self) -> None:
        rows = self.database.execute("""
            SELECT application_name, count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY 1
        """)
        print("\nconnections of one web process:", dict(rows.fetchall()))
        print("connections to Redis:", len(self.redis.client_list()) - 1)
        for process in self.site.processes():
            memory = process.memory_full_info()
            print(
                f"  process: {memory.uss / 1e6:.0f} MB its own, {memory.pss / 1e6:.0f}"
            )


def busy_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def measure(probe: Probe) -> None:
    probe.print_sizes()
    calls: dict[str, Callable[[], bytes]] = {
        "an item by token, not cached": lambda: probe.call(
            "GET", probe.item(), headers=probe.token
        ),
        "an item, anonymous, not cached": lambda: probe.call("GET", probe.item()),
        "an item created": lambda: probe.call(
            "POST", "/api/v1/items/", write(probe), probe.token
        ),
        "an item changed": lambda: probe.call(
            "PATCH", probe.item(), {"description": text(probe)}, probe.token
        ),
        "an item created, with an Idempotency-Key": lambda: probe.call(
            "POST", "/api/v1/items/", write(probe),
            probe.token | {"Idempotency-Key": f"{probe.numbers.random()}"},
        ),
    }  # fmt: skip
    for name, call in calls.items():
        for _warm in range(20):
            call()
        probe.database.execute("CHECKPOINT")
        used = probe.redis.info("memory")["used_memory"]
        keys = probe.redis.dbsize()
        with probe.cost(name):
            for _ in range(CALLS):
                body = call()
        print(f"  response: {len(body):,} bytes and {probe.head:,} of headers")
        used = probe.redis.info("memory")["used_memory"] - used
        keys = probe.redis.dbsize() - keys
        print(f"  Redis: {keys / CALLS:.2f} keys, {used / CALLS:,.0f} bytes")
        if name == "an item changed":
            # The same pages again: none of them needs its image.
            with probe.cost(f"{name}, pages already in the WAL"):
                for _ in range(CALLS):
                    probe.call(
                        "PATCH", "/api/v1/items/load-1",
                        {"description": text(probe)}, probe.token,
                    )  # fmt: skip
    probe.compress()
    with probe.cost("an item changed, wal_compression = pglz"):
        for _ in range(CALLS):
            calls["an item changed"]()
    for action in ("created", "updated"):
        size = probe.one(f"""
            SELECT avg(pg_column_size(c.*)) FROM items_itemchange c
            WHERE action = '{action}'
        """)
        print(f"  an entry of the change log, {action}: {size:,.0f} bytes")
    records = "resilient_site_idempotencyrecord"
    size = probe.one(f"SELECT pg_total_relation_size('{records}')")
    rows = probe.one(f"SELECT count(*) FROM {records}")
    print(f"  a stored response: {size / max(rows, 1):,.0f} bytes, indexes included")
    # As many at once as there are threads.
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda _: probe.site.get(probe.item()), range(320)):
            pass
    probe.print_connections()


def measure_relay(probe: Probe, number: int = 20_000) -> None:
    """Print what an event costs, of those that the import has left to be published."""
    try:
        broker = RabbitMQ()
    except LookupError as why:
        print(f"\n{why}: the relay is not measured")
        return
    with ExitStack() as stack:
        stack.callback(broker.close)
        broker.start()
        connection = stack.enter_context(Connection(broker.url()))
        exchange = Exchange("resilient-site", type="topic")
        queue = Queue("everything", exchange, routing_key="#", channel=connection)
        queue.declare()
        env = probe.site.env | {"EVENTS_URL": broker.url()}
        relay = Program(env, ["manage.py", "relay_events"], ready="are published")
        stack.enter_context(relay)
        waiting = lambda: queue.queue_declare(passive=True).message_count  # noqa: E731
        wait_for(lambda: waiting() > 1_000)
        first, began, busy = waiting(), time.monotonic(), busy_s(relay.processes())
        wait_for(lambda: waiting() > first + number)
        took, number = time.monotonic() - began, waiting() - first
        busy = busy_s(relay.processes()) - busy
    print(f"\nthe relay: {number / took:,.0f} events a second")
    print(f"  {busy / number * 1000:.2f} ms cpu for each, in one process")


def text(probe: Probe) -> str:
    return f"Changed {probe.numbers.random()}: a description of eighty letters or so"


def write(probe: Probe) -> dict[str, Any]:
    return {"name": "Brass bolt", "description": text(probe), "tags": ["common"]}


def main() -> None:
    size = int(sys.argv[1]) if sys.argv[1:] else 100_000
    with ExitStack() as stack:
        testbed = stack.enter_context(Testbed())
        catalogue = Catalogue(testbed, stack)
        start = psycopg.connect(catalogue.site.env["DATABASE_URL"], autocommit=True)
        before = start.execute("SELECT pg_current_wal_lsn()").fetchone()
        catalogue.grow(size)
        wal = start.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", before)
        print(f"imported: {wal.fetchone()[0] / size:,.0f} bytes of WAL for each item")
        start.close()
        probe = Probe(testbed, catalogue)
        measure(probe)
        measure_relay(probe)


if __name__ == "__main__":
    main()
