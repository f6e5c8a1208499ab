"""What is broken, one thing after another, and how it is mended again.

A fault that is over in a moment (a kill) has no end of its own: what it broke is to
come back by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.drill import breaking, crowds
from tests.drill.context import Context
from tests.drill.stack import Ours, Stack

REDIS_DELAY_S = 0.3
# What the site says in its log.
CACHE = r"breaker for the cache opened"
DATABASE = r"breaker for the database opened"
SLOW = f"{crowds.DRIPPING + crowds.NOT_READING} clients send or read very slowly"


@dataclass
class Fault:
    """One fault; it lasts for `seconds`, or with 0 is over at once."""

    name: str
    title: str
    seconds: float
    begin: Callable[[Context], None]
    end: Callable[[Context], None] = lambda context: None
    # What has to be made ready before; what is done again and again while it lasts.
    prepare: Callable[[Context], None] = lambda context: None
    go_on: Callable[[Context], None] = lambda context: None
    # What the site says of it in its log; "": nothing.
    noticed: str = ""
    # What is to be there again beside the answers of clients.
    is_mended: Callable[[Context], bool] = lambda context: True
    # Why it cannot be; "": it can.
    cannot: Callable[[Stack], str] = lambda stack: ""
    is_quick: bool = False


def needs_pool(stack: Stack) -> str:
    return "" if stack.paths.jobs else "it has no jobs"


def needs_broker(stack: Stack) -> str:
    has_one = isinstance(stack, Ours) and stack.rabbitmq is not None
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
        noticed=CACHE,
    ),
    Fault(
        "redis-stopped",
        "Redis hangs (SIGSTOP)",
        4,
        lambda c: c.stack.redis.pause(),
        lambda c: c.stack.redis.resume(),
        noticed=CACHE,
        is_quick=True,
    ),
    Fault(
        "redis-slow",
        "Redis takes 0.3 s for each answer",
        4,
        delay_redis(REDIS_DELAY_S),
        delay_redis(0),
        noticed=CACHE,
    ),
    Fault(
        "postgres-killed",
        "PostgreSQL is killed",
        4,
        lambda c: c.stack.postgres.kill(),
        lambda c: c.stack.postgres.start(),
        noticed=DATABASE,
        is_quick=True,
    ),
    Fault(
        "postgres-stopped",
        "PostgreSQL hangs (SIGSTOP)",
        4,
        lambda c: c.stack.postgres.pause(),
        lambda c: c.stack.postgres.resume(),
        noticed=DATABASE,
    ),
    Fault(
        "postgres-restarted",
        "PostgreSQL is restarted",
        0.01,
        lambda c: c.stack.postgres.stop(),
        lambda c: c.stack.postgres.start(),
        noticed=DATABASE,
    ),
    Fault(
        "postgres-connections",
        "PostgreSQL has no connection left",
        4,
        breaking.take_all_connections,
        breaking.give_connections_back,
        noticed=DATABASE,
    ),
    Fault(
        "web-killed",
        "A web process is killed",
        0,
        breaking.kill_web,
        is_mended=breaking.web_is_back,
        noticed="SIGKILL",
        is_quick=True,
    ),
    Fault(
        "supervisor-killed",
        "The supervisor of the pool is killed",
        0,
        breaking.kill_supervisor,
        is_mended=breaking.supervisor_is_back,
        cannot=needs_pool,
        noticed=r"exited: compute",
        is_quick=True,
    ),
    Fault(
        "pool-killed",
        "A process of the pool is killed",
        0,
        breaking.kill_pool_process,
        is_mended=breaking.pool_is_whole,
        cannot=needs_pool,
    ),
    Fault(
        "poison-job",
        "A job crashes whatever runs it",
        0,
        breaking.begin_job("segfault"),
        is_mended=breaking.job_has_failed,
        cannot=needs_pool,
        noticed=r"A pool process ended",
    ),
    Fault(
        "hungry-job",
        "A job eats memory without end",
        0,
        breaking.begin_job("eat_memory"),
        is_mended=breaking.job_has_failed,
        cannot=needs_pool,
    ),
    Fault(
        "overload",
        "Five times as many requests as it can answer",
        4,
        crowds.overload,
        crowds.overload_is_over,
        is_quick=True,
    ),
    Fault(
        "cold-herd",
        f"{crowds.HERD} clients ask at once for one new thing",
        0,
        crowds.herd,
    ),
    Fault(
        "slow-clients",
        SLOW,
        4,
        crowds.slow_clients,
        crowds.slow_clients_go,
        go_on=crowds.drip,
    ),
    Fault(
        "broker-restarted",
        "RabbitMQ is killed and started again",
        0.01,
        breaking.kill_broker,
        breaking.start_broker,
        is_mended=breaking.events_come_again,
        cannot=needs_broker,
        noticed=r"breaker for the broker opened",
    ),
    Fault(
        "disk-full",
        "The disk is full",
        4,
        lambda c: c.stack.disk.fill(),
        breaking.make_room,
        cannot=breaking.cannot_fill,
    ),
    Fault(
        "clock-step",
        "The clock of a web process jumps by an hour, and back",
        4,
        breaking.step_clock,
        breaking.step_clock_back,
        prepare=breaking.give_clock,
        cannot=breaking.cannot_step,
    ),
)
