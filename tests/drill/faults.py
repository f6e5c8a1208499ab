"""Faults of the drill: how each is injected, healed and detected.

An instantaneous fault (a kill) is not healed: the site must recover by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.drill import fault_injection, traffic_faults
from tests.drill.context import Context
from tests.drill.stack import ProductionStack, Stack

REDIS_DELAY_S = 0.3
# Patterns in the log of the site.
CACHE = r"breaker for the cache opened"
DATABASE = r"breaker for the database opened"
SLOW = f"{traffic_faults.DRIPPING + traffic_faults.NOT_READING} slow clients"


@dataclass
class Fault:
    """A fault of some seconds; 0 is instantaneous."""

    name: str
    title: str
    seconds: float
    inject: Callable[[Context], None]
    heal: Callable[[Context], None] = lambda context: None
    # Before the load is measured; repeatedly during the fault.
    prepare: Callable[[Context], None] = lambda context: None
    sustain: Callable[[Context], None] = lambda context: None
    # Its pattern in the log of the site; "": none.
    log_pattern: str = ""
    # What must be restored besides the responses.
    is_recovered: Callable[[Context], bool] = lambda context: True
    # Why it cannot be injected here; "": it can.
    why_impossible: Callable[[Stack], str] = lambda stack: ""
    is_quick: bool = False


def without_pool(stack: Stack) -> str:
    return "" if stack.paths.jobs else "the stack has no jobs"


def without_broker(stack: Stack) -> str:
    has_one = isinstance(stack, ProductionStack) and stack.rabbitmq is not None
    return "" if has_one else "there is no broker"


def delay_redis(seconds: float) -> Callable[[Context], None]:
    def delay(context: Context) -> None:
        context.stack.to_redis.delay_s = seconds

    return delay


FAULTS = (
    Fault(
        "redis-killed",
        "Redis is killed",
        4,
        lambda c: c.stack.redis.kill(),
        lambda c: c.stack.redis.start(),
        log_pattern=CACHE,
    ),
    Fault(
        "redis-stopped",
        "Redis hangs (SIGSTOP)",
        4,
        lambda c: c.stack.redis.pause(),
        lambda c: c.stack.redis.resume(),
        log_pattern=CACHE,
        is_quick=True,
    ),
    Fault(
        "redis-slow",
        "Redis takes 0.3 s for each answer",
        4,
        delay_redis(REDIS_DELAY_S),
        delay_redis(0),
        log_pattern=CACHE,
    ),
    Fault(
        "postgres-killed",
        "PostgreSQL is killed",
        4,
        lambda c: c.stack.postgres.kill(),
        lambda c: c.stack.postgres.start(),
        log_pattern=DATABASE,
        is_quick=True,
    ),
    Fault(
        "postgres-stopped",
        "PostgreSQL hangs (SIGSTOP)",
        4,
        lambda c: c.stack.postgres.pause(),
        lambda c: c.stack.postgres.resume(),
        log_pattern=DATABASE,
    ),
    Fault(
        "postgres-restarted",
        "PostgreSQL is restarted",
        0.01,
        lambda c: c.stack.postgres.stop(),
        lambda c: c.stack.postgres.start(),
        log_pattern=DATABASE,
    ),
    Fault(
        "postgres-connections",
        "PostgreSQL has no connection left",
        4,
        fault_injection.take_all_connections,
        fault_injection.give_connections_back,
        log_pattern=DATABASE,
    ),
    Fault(
        "web-killed",
        "A web process is killed",
        0,
        fault_injection.kill_web,
        is_recovered=fault_injection.web_is_restarted,
        log_pattern="SIGKILL",
        is_quick=True,
    ),
    Fault(
        "supervisor-killed",
        "The supervisor of the pool is killed",
        0,
        fault_injection.kill_supervisor,
        is_recovered=fault_injection.supervisor_is_restarted,
        why_impossible=without_pool,
        log_pattern=r"exited: compute",
        is_quick=True,
    ),
    Fault(
        "pool-killed",
        "A process of the pool is killed",
        0,
        fault_injection.kill_pool_process,
        is_recovered=fault_injection.pool_is_complete,
        why_impossible=without_pool,
    ),
    Fault(
        "poison-job",
        "A job crashes its process",
        0,
        fault_injection.submit_job("segfault"),
        is_recovered=fault_injection.job_has_failed,
        why_impossible=without_pool,
        log_pattern=r"A pool process ended",
    ),
    Fault(
        "hungry-job",
        "A job allocates memory without limit",
        0,
        fault_injection.submit_job("eat_memory"),
        is_recovered=fault_injection.job_has_failed,
        why_impossible=without_pool,
    ),
    Fault(
        "overload",
        "Overload: five times the capacity",
        4,
        traffic_faults.overload,
        traffic_faults.measure_overload,
        is_quick=True,
    ),
    Fault(
        "cold-herd",
        f"{traffic_faults.HERD} clients send one uncached request at once",
        0,
        traffic_faults.herd,
    ),
    Fault(
        "slow-clients",
        SLOW,
        4,
        traffic_faults.slow_clients,
        traffic_faults.close_slow_clients,
        sustain=traffic_faults.drip,
    ),
    Fault(
        "broker-restarted",
        "RabbitMQ is killed and started again",
        0.01,
        fault_injection.kill_broker,
        fault_injection.start_broker,
        is_recovered=fault_injection.events_arrive,
        why_impossible=without_broker,
        log_pattern=r"breaker for the broker opened",
    ),
    Fault(
        "disk-full",
        "The disk is full",
        4,
        lambda c: c.stack.disk.fill(),
        fault_injection.make_room,
        why_impossible=fault_injection.without_small_disk,
    ),
    Fault(
        "clock-step",
        "The clock of a web process steps by an hour, and back",
        4,
        fault_injection.step_clock,
        fault_injection.step_clock_back,
        prepare=fault_injection.install_clock,
        why_impossible=fault_injection.without_second_site,
    ),
)
