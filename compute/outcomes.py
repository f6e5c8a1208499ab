"""How one run of a job can end, as its worker tells it to the queue."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Why a job failed; stable, for programs."""

    TASK_FAILED = "task_failed"
    ERROR = "error"
    CRASHED = "crashed"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    RESULT_TOO_LARGE = "result_too_large"
    PART_FAILED = "part_failed"
    TASK_UNKNOWN = "task_unknown"
    WORKER_LOST = "worker_lost"


@dataclass(frozen=True)
class Succeeded:
    result: Any = None
    stored: bool = False  # the result is in the job's row already


@dataclass(frozen=True)
class Split:
    """The job goes on in parts, with these parameters."""

    params: list[dict[str, Any]]


@dataclass(frozen=True)
class Failed:
    code: Code
    detail: str
    retry: bool = False


@dataclass(frozen=True)
class Cancelled:
    pass


@dataclass(frozen=True)
class HandedBack:
    """The worker stops, or never began; the job is as if it had not been taken."""


@dataclass(frozen=True)
class Lost:
    """The worker has not been heard of for the time of a lease."""


type Outcome = Succeeded | Split | Failed | Cancelled | HandedBack | Lost
