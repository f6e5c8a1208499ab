"""The parts whose health is watched, and what a look at one of them finds.

Apps register their parts when they are ready; what watches and shows them knows none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

# What staff is shown beside the words, in its order.
type Figures = tuple[tuple[str, str], ...]


class Status(StrEnum):
    PASS = "pass"  # noqa: S105 - the words of health+json
    WARN = "warn"  # it does its work in another way, or not all of it
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """How a part is, what that means for people, and what only staff is told."""

    status: Status
    meaning: str
    error: str = ""
    figures: Figures = ()


@dataclass(frozen=True)
class Part:
    """One part; `check` may raise, or hang: then it is not known how the part is."""

    name: str
    title: str
    kind: str  # componentType of health+json
    check: Callable[[], Finding]


_parts: dict[str, Part] = {}


def register(part: Part) -> None:
    _parts[part.name] = part


def all_parts() -> list[Part]:
    return list(_parts.values())
