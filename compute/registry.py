"""Registry of tasks: each module in `compute/tasks/` declares one with `@task`.

A task is a plain function of a `TaskContext` and its parameters. It runs in a pool
process, may be killed at any line, and may run again: its writes must allow for that.
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
type Permission = Callable[[User | AnonymousUser], bool]


class TaskNotFound(NotFound):
    code = "task_not_found"
    detail = "There is no such task."


class TaskFailed(Exception):
    """Raised by a task for a failure that a retry would not fix.

    The text is shown to the person who requested the job.
    """


class OtherVersion(Exception):
    """Raised for a job that only another version of the site can run."""


@dataclass(frozen=True)
class Parts:
    """Returned by a task to be split: the parameters of each part."""

    params: list[dict[str, Any]]


def anyone(user: User | AnonymousUser) -> bool:
    return True


def is_authenticated(user: User | AnonymousUser) -> bool:
    return user.is_authenticated


def has_permissions(*permissions: str) -> Permission:
    """Return a check that a user has all of `permissions`."""
    return lambda user: user.has_perms(permissions)


@dataclass(eq=False)
class Task:
    name: str
    main: Function
    params: type[serializers.Serializer[Any]]
    title: str
    time_limit_s: float
    memory_mb: int
    retries: int
    may_run: Permission
    is_listed: bool = True
    part_function: Function | None = field(default=None, init=False)
    merge_function: Function | None = field(default=None, init=False)

    def part(self, function: Function) -> Function:
        """Declare the function that computes one part."""
        self.part_function = function
        return function

    def merge(self, function: Function) -> Function:
        """Declare the function that combines the results of the parts."""
        self.merge_function = function
        return function

    @property
    def has_parts(self) -> bool:
        return self.part_function is not None

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
    may_run: Permission = is_authenticated,
    is_listed: bool = True,
) -> Callable[[Function], Task]:
    """Register a function as a task under the function's name.

    `time_limit_s` and `memory_mb` apply to each process that runs it. One that is not
    listed is begun by a page of its own.
    """

    def register(function: Function) -> Task:
        name = function.__name__
        if name in tasks and tasks[name].main.__module__ != function.__module__:
            raise ValueError(f"Two tasks are called {name!r}.")
        # So that what does not fit when it runs is of another version of the site.
        inspect.signature(function).bind(None, **params().fields)
        tasks[name] = Task(
            name=name,
            main=function,
            params=params,
            title=title or name.replace("_", " ").capitalize(),
            time_limit_s=time_limit_s,
            memory_mb=memory_mb,
            retries=retries,
            may_run=may_run,
            is_listed=is_listed,
        )
        return tasks[name]

    return register


def get_task(name: str) -> Task:
    """Raise TaskNotFound if there is none of this name."""
    try:
        return tasks[name]
    except KeyError:
        raise TaskNotFound from None


def list_tasks_for(user: User | AnonymousUser) -> list[Task]:
    """Return the tasks that are offered to `user`, by title."""
    offered = (task for task in tasks.values() if task.is_listed)
    allowed = (task for task in offered if task.may_run(user))
    return sorted(allowed, key=lambda task: task.title)


def discover_tasks() -> Mapping[str, Task]:
    """Import the modules of `compute/tasks/`, and those named in COMPUTE_TASKS."""
    package = import_module("compute.tasks")
    for module in iter_modules(package.__path__, "compute.tasks."):
        import_module(module.name)
    for name in settings.COMPUTE_TASKS:
        import_module(name)
    return tasks
