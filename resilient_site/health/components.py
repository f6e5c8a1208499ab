"""Components whose health is monitored; apps register theirs when they are ready."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

# Names and values that operators see beside the text, in this order.
type Figures = tuple[tuple[str, str], ...]


class Status(StrEnum):
    PASS = "pass"  # noqa: S105 - the words of health+json
    WARN = "warn"  # works in another way, or not completely
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class CheckResult:
    """The status, what it means for people, and what only operators see."""

    status: Status
    meaning: str
    error: str = ""
    figures: Figures = ()


@dataclass(frozen=True)
class Component:
    """One component; if `check` raises or hangs, its status is unknown."""

    name: str
    title: str
    kind: str  # componentType of health+json
    check: Callable[[], CheckResult]


_components: dict[str, Component] = {}


def register(component: Component) -> None:
    _components[component.name] = component


def all_components() -> list[Component]:
    return list(_components.values())
