"""Latency of reads beside an idle and a saturated pool."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain

from tests.load.bench.measuring import Bench
from tests.load.bench.peers import OURS, Running
from tests.load.bench.results import (
    RATIO,
    Distribution,
    Goal,
    Piece,
    Row,
    Table,
    percentile,
    ratios,
)
from tests.load.testbed import job_client

TITLE = "Reading beside a saturated pool"
PER_S = 150
HOT = 200  # items


def measure(bench: Bench) -> Iterator[Piece]:
    """Run site and pool on all cores."""
    taken: dict[str, list[list[float]]] = {"idle": [], "saturated": []}
    with ExitStack() as stack:
        peers = Running(bench.testbed, stack)
        site = peers.start_site(COMPUTE_PROCESSES="2")
        peers.fill_ours()
        jobs = stack.enter_context(job_client(site.env))
        read, seconds = peers[OURS].read(HOT), 1.5 * bench.scale.turn_s
        bench.generator.call("one_by_one", read, 2 * HOT)  # to warm up
        for number in range(bench.scale.rounds):
            for state in list(taken)[:: 1 if number % 2 else -1]:
                if state == "saturated":
                    jobs.call("saturate")
                milliseconds = bench.generator.call("latencies", read, PER_S, seconds)
                taken[state].append(milliseconds)
                if state == "saturated":
                    jobs.call("relieve")
    title = f"GET of an item, {PER_S} a second"
    rows = [Row(f"pool {state}", list(chain(*of))) for state, of in taken.items()]
    yield Distribution(title, "ms", rows)
    rows = []
    for share, goal in ((0.5, None), (0.99, Goal("≤", 1.5))):
        idle, busy = ([percentile(one, share) for one in of] for of in taken.values())
        name = f"p{share * 100:.0f}, saturated to idle"
        rows.append(Row(name, ratios(busy, idle), goal))
    yield Table(title, RATIO, rows)
