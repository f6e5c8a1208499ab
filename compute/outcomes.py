"""Outcomes of one run of a job, as a worker reports them to the queue."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """Why a job failed; stable, part of the REST contract."""

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
    stored: bool = False  # the result is already in the job's row


@dataclass(frozen=True)
class Split:
    """The job continues in parts with these parameters."""

    params: list[dict[str, Any]]


@dataclass(frozen=True)
class Failed:
    code: ErrorCode
    detail: str
    retry: bool = False


@dataclass(frozen=True)
class Cancelled:
    pass


@dataclass(frozen=True)
class Released:
    """The worker stops, or never started the job, which returns to the queue."""


@dataclass(frozen=True)
class Unsupported:
    """The worker is of another version of the site, which has no such task."""


@dataclass(frozen=True)
class Lost:
    """The worker has not renewed its lease in time."""


type Outcome = Succeeded | Split | Failed | Cancelled | Released | Unsupported | Lost
