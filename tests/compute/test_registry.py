"""Registry of tasks."""

import sys
from importlib import import_module

import pytest
from rest_framework import serializers

from compute import registry
from compute.registry import Task, discover_tasks, has_permissions, task

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def tasks(monkeypatch) -> dict[str, Task]:
    """The register, without the tasks of other modules."""
    monkeypatch.setattr(registry, "tasks", {})
    return registry.tasks


def declare(module: str, **options: str) -> Task:
    def find_it(context: object) -> None:
        pass

    find_it.__module__ = module
    return task(**options)(find_it)


def test_task_has_the_name_of_its_function_and_a_title(tasks):
    found = declare("one")
    assert (found.name, found.title, found.summary) == ("find_it", "Find it", "")
    assert found.description == ""
    # Its module may be imported again.
    again = declare("one", title="Find all")
    assert (tasks, again.title) == ({"find_it": again}, "Find all")


def test_two_tasks_of_one_name_are_an_error(tasks):
    first = declare("one")
    with pytest.raises(ValueError, match="Two tasks are called 'find_it'"):
        declare("another")
    assert tasks == {"find_it": first}


def test_function_takes_the_parameters_that_are_declared():
    class Params(serializers.Serializer):
        size = serializers.IntegerField(default=1)

    with pytest.raises(TypeError, match="size"):
        task(params=Params)(lambda context: None)


def test_decorators_of_parts_leave_their_functions_as_they_are():
    whole = declare("one")
    assert not whole.has_parts
    functions = [lambda context: 1, lambda context: 2]
    assert [whole.part(functions[0]), whole.merge(functions[1])] == functions
    assert [whole.part_function, whole.merge_function] == functions
    assert whole.has_parts


def test_permission_of_a_task_requires_all_permissions_named(reader, editor):
    may_add = has_permissions("items.add_item")
    assert [may_add(reader), may_add(editor)] == [False, True]
    assert not has_permissions("items.add_item", "compute.view_job")(editor)


def test_tasks_are_discovered_in_the_package_and_the_modules_of_the_settings(
    monkeypatch, settings
):
    settings.COMPUTE_TASKS = ["tests.compute.faults"]
    # As if they had not been imported.
    for name in ("compute.tasks.export_items", "tests.compute.faults"):
        package, _, module = name.rpartition(".")
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(import_module(package), module)
    assert {"export_items", "echo"} <= discover_tasks().keys()
    assert "find_duplicates" not in discover_tasks()
