"""The kinds of work: every file in `compute/tasks/` declares one with `@task`.

A task is a plain function of a `Run` and its parameters. It runs in a process of its
own, may be killed at any line, and may be run again: what it writes must bear that.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from rest_framework import serializers

from resilient_site.errors import NotFound

type Function = Callable[..., Any]
type May = Callable[[User | AnonymousUser], bool]


class TaskNotFound(NotFound):
    code = "task_not_found"
    detail = "There is no such task."


class TaskFailed(Exception):
    """What a task raises for a failure that doing it again would not mend.

    The text is for the person who asked for the work.
    """


@dataclass(frozen=True)
class Parts:
    """What a task returns to be split: the parameters of each part."""

    params: list[dict[str, Any]]


def ANYONE(user: User | AnonymousUser) -> bool:
    return True


def SIGNED_IN(user: User | AnonymousUser) -> bool:
    return user.is_authenticated


def may(*permissions: str) -> May:
    """Let those run it who have all of `permissions`."""

    def allowed(user: User | AnonymousUser) -> bool:
        return user.has_perms(permissions)

    return allowed


@dataclass(eq=False)
class Task:
    name: str
    main: Function
    params: type[serializers.Serializer[Any]]
    title: str
    time_limit_s: float
    memory_mb: int
    retries: int
    may_run: May
    strangers_max: int
    part_function: Function | None = field(default=None, init=False)
    merge_function: Function | None = field(default=None, init=False)

    def part(self, function: Function) -> Function:
        """Declare what one part does."""
        self.part_function = function
        return function

    def merge(self, function: Function) -> Function:
        """Declare what makes the result of the parts' results."""
        self.merge_function = function
        return function

    @cached_property
    def summary(self) -> str:
        return (inspect.getdoc(self.main) or "").partition("\n")[0]

    @cached_property
    def description(self) -> str:
        return inspect.getdoc(self.main) or ""


tasks: dict[str, Task] = {}


def task(
    *,
    params: type[serializers.Serializer[Any]] = serializers.Serializer,
    title: str = "",
    time_limit_s: float = 600,
    memory_mb: int = 512,
    retries: int = 2,
    who: May = SIGNED_IN,
    strangers_max: int = 100,
) -> Callable[[Function], Task]:
    """Make a task of a function, under the function's name.

    `time_limit_s` and `memory_mb` hold for each process that works on it;
    of people who are not signed in there may be `strangers_max` jobs at a time.
    """

    def register(function: Function) -> Task:
        name = function.__name__
        if name in tasks and tasks[name].main.__module__ != function.__module__:
            raise ValueError(f"Two tasks are called {name!r}.")
        tasks[name] = Task(
            name=name,
            main=function,
            params=params,
            title=title or name.replace("_", " ").capitalize(),
            time_limit_s=time_limit_s,
            memory_mb=memory_mb,
            retries=retries,
            may_run=who,
            strangers_max=strangers_max,
        )
        return tasks[name]

    return register


def get_task(name: str) -> Task:
    """Raise TaskNotFound if there is none of this name."""
    try:
        return tasks[name]
    except KeyError:
        raise TaskNotFound from None


def open_to(user: User | AnonymousUser) -> list[Task]:
    """Return the tasks that `user` may run, by title."""
    allowed = (task for task in tasks.values() if task.may_run(user))
    return sorted(allowed, key=lambda task: task.title)


def discover() -> Mapping[str, Task]:
    """Import every file of `compute/tasks/`, and the modules in COMPUTE_TASKS."""
    package = import_module("compute.tasks")
    for module in iter_modules(package.__path__, "compute.tasks."):
        import_module(module.name)
    for name in settings.COMPUTE_TASKS:
        import_module(name)
    return tasks
