"""Latency of reads beside an idle and a saturated pool."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain

from tests.load.bench.measuring import Bench
from tests.load.bench.peer import OURS
from tests.load.bench.peers import Running
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

TITLE = "Reading beside a saturated pool"
PER_S = 150
HOT = 200  # items

type Taken = dict[str, list[list[float]]]


def measure(bench: Bench) -> Iterator[Piece]:
    taken = measured(bench)
    title = f"GET of an item, {PER_S} a second"
    rows = [Row(f"pool {state}", list(chain(*taken[state]))) for state in taken]
    yield Distribution(title, "ms", rows, is_drawn=True)
    yield Table(
        title,
        RATIO,
        [slower(taken, 0.5, None), slower(taken, 0.99, Goal("≤", 1.5))],
    )


def slower(taken: Taken, share: float, goal: Goal | None) -> Row:
    idle, busy = (
        [percentile(times, share) for times in taken[state]]
        for state in ("idle", "saturated")
    )
    return Row(f"p{share * 100:.0f}, saturated to idle", ratios(busy, idle), goal)


def measured(bench: Bench) -> Taken:
    """Run site and pool on all cores."""
    taken: Taken = {"idle": [], "saturated": []}
    with ExitStack() as stack:
        peers = Running(bench.testbed, stack)
        site = peers.start_site(COMPUTE_PROCESSES="2")
        peers.fill_ours()
        client = stack.enter_context(bench.testbed.job_client(site.env))
        read = peers[OURS].read_any(HOT)
        template = read, PER_S, 1.5 * bench.scale.turn_s
        bench.generator.call("warm_up", read, 2 * HOT)
        for number in range(bench.scale.rounds):
            for state in list(taken)[:: 1 if number % 2 else -1]:
                if state == "saturated":
                    client.call("saturate")
                taken[state].append(bench.generator.call("latencies", *template))
                if state == "saturated":
                    client.call("relieve")
    return taken
