"""The task that undoes a batch of any size."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from compute import completion, files
from compute.models import Job
from compute.registry import TaskFailed, get_task
from compute.tasks.undo_batch import CONFLICTS
from items import catalogue
from items.bulk import staging, undo
from items.bulk.batches import begin_batch, finish_batch
from items.fields import ItemData
from items.models import ChangeBatch, Item, ItemChange
from tests.compute.factories import begin, claim, do, end
from tests.factories import TESTER, make_item, make_items

pytestmark = pytest.mark.django_db

SKIPPED = {"skip_conflicts": True}


def states() -> dict[str, ItemData]:
    return {item.pk: item.state() for item in Item.objects.for_reading()}


@pytest.fixture
def batch(monkeypatch) -> UUID:
    """Four changed items, four created in pairs of parent and child, two deleted."""
    monkeypatch.setattr(undo, "PORTION", 2)
    monkeypatch.setattr(undo, "SQLITE_PORTION", 2)
    make_items(6)
    made = begin_batch(ChangeBatch.Kind.IMPORT, "list.csv", actor=TESTER)

    def apply(*rows: dict[str, Any]) -> None:
        staging.apply(rows, actor=TESTER, batch_id=made.pk)

    for n in range(4):
        apply({"id": f"item-0000{n}", "name": "X"})
    for n in range(2):
        apply({"id": f"p{n}", "name": "P"})
        apply({"id": f"c{n}", "name": "C", "parent": f"p{n}"})
    gone = ["item-00004", "item-00005"]
    catalogue.delete_items(gone, actor=TESTER, batch_id=made.pk)
    finish_batch(made.pk)
    return made.pk


NAMES = {f"item-0000{n}": f"Item 0000{n}" for n in range(6)}


def names() -> dict[str, str]:
    return {pk: state["name"] for pk, state in states().items()}


def conflicts(job: Job) -> list[str]:
    file = job.result_files().get(name=CONFLICTS)
    return b"".join(files.read(file)).decode().splitlines()[1:]


def test_batch_is_undone_and_the_undo_too(batch, editor):
    after = states()
    job = do("undo_batch", editor, batch=batch)
    assert job.result == {
        "undoes": str(batch), "title": "list.csv", "batch": str(job.pk), "created": 2,
        "updated": 4, "deleted": 4, "conflicts": 0, "is_undone": True,
    }  # fmt: skip
    assert names() == NAMES
    assert ChangeBatch.objects.get(pk=batch).undone
    again = do("undo_batch", editor, batch=job.pk)
    assert (states(), again.result["conflicts"]) == (after, 0)
    assert not ChangeBatch.objects.get(pk=batch).undone


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("at", ["save_checkpoint", "progress"])
@pytest.mark.parametrize("number", [0, 2, 5])
def test_killed_undo_goes_on_where_it_was(batch, editor, at, number):
    """Before a portion is committed, or after it; the last is the result."""
    catalogue.update_item("item-00001", {"name": "Mine"}, actor=TESTER)
    context = begin("undo_batch", editor, batch=batch, **SKIPPED)
    task, params = get_task("undo_batch"), context.claim.params
    calls: Iterator[int] = iter(range(100))
    original = getattr(context, at)

    def fail(*args: Any) -> None:
        original(*args)
        if next(calls) == number:
            raise PowerCut

    setattr(context, at, fail)
    if at == "progress" and number == 5:
        task.main(context, **params)
    else:
        with pytest.raises(PowerCut):
            task.main(context, **params)
    Job.objects.update(lease_until="2000-01-01T00:00Z")
    assert completion.requeue_lost() == 1
    again = claim()
    result = task.main(again, **params)
    assert task.main(again, **params) == result
    counts = [result[name] for name in ("created", "updated", "deleted", "conflicts")]
    assert counts == [2, 3, 4, 1]
    assert names() == NAMES | {"item-00001": "Mine"}
    assert ChangeBatch.objects.count() == 2
    assert ItemChange.objects.filter(batch=context.job_id).count() == 9
    assert conflicts(end(again, result)) == [
        "item-00001,It was changed since.,2,3,tester"
    ]


@pytest.mark.once
def test_cancelled_undo_is_finished_by_another_job(batch, editor):
    context = begin("undo_batch", editor, batch=batch)
    undo.begin_portions(undo.get_batch(batch), actor=TESTER, id=context.job_id)
    undo.undo_portion(context.job_id, actor=TESTER)
    end(context, None)
    job = do("undo_batch", editor, batch=batch)
    assert (names(), job.result["batch"]) == (NAMES, str(context.job_id))


@pytest.mark.once
def test_nothing_is_undone_if_there_are_conflicts(batch, editor):
    make_item(id="other", parent="p1")
    catalogue.update_item("item-00001", {"name": "Mine"}, actor=TESTER)
    after = states()
    job = do("undo_batch", editor, batch=batch)
    assert (job.result["is_undone"], job.result["conflicts"]) == (False, 2)
    assert [row.split(",")[0] for row in conflicts(job)] == ["item-00001", "p1"]
    assert states() == after
    assert ChangeBatch.objects.count() == 1


@pytest.mark.once
def test_edit_while_it_runs_stops_it(batch, editor):
    context = begin("undo_batch", editor, batch=batch)
    task, params = get_task("undo_batch"), context.claim.params
    reports: Iterator[int] = iter(range(100))

    def edit(fraction: float, message: str) -> None:
        if next(reports) == 1:
            catalogue.update_item("item-00003", {"name": "Mine"}, actor=TESTER)

    context._on_progress = edit
    context.progress = edit
    with pytest.raises(TaskFailed, match="Then “item-00003” could not be"):
        task.main(context, **params)
    assert {"p0", "c0", "p1", "c1"}.isdisjoint(states())
    end(context, None)
    job = do("undo_batch", editor, batch=batch, **SKIPPED)
    assert job.result["conflicts"] == 1
    assert names() == NAMES | {"item-00003": "Mine"}


@pytest.mark.once
def test_unknown_batch_is_named():
    params = get_task("undo_batch").params(data={"batch": str(ChangeBatch().pk)})
    assert not params.is_valid()
    assert [*params.errors] == ["batch"]
