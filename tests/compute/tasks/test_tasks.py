"""What the tasks do, called as the plain functions they are."""

import gzip
import io
import random

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile

from compute import completion, files, jobs, queue
from compute.models import Job
from compute.outcomes import Failed, Lost, Succeeded
from compute.registry import Parts, Task, TaskFailed, get_task
from compute.task_context import TaskContext
from compute.tasks.algorithms.primes import count_primes
from items.imports import importing
from items.models import ImportRun, Item, ItemChange
from tests.factories import make_item, make_items

pytestmark = pytest.mark.django_db


def begin(task: Task, owner: User, **params) -> tuple[TaskContext, dict]:
    """Ask for a job and take it; return its run and its parameters."""
    serializer = task.params(data=params)
    serializer.is_valid(raise_exception=True)
    jobs.submit(task=task, params=serializer.validated_data, owner=owner)
    (claim,) = queue.claim("worker", 1)
    return TaskContext(claim, lambda fraction, message: None), claim.params


def end(context: TaskContext, result: object) -> Job:
    assert completion.finish(context.claim, Succeeded(result))
    return Job.objects.get(pk=context.job_id)


def content(job: Job, name: str) -> bytes:
    return b"".join(files.read(job.result_files().get(name=name)))


# --- heavy_computation


@pytest.mark.parametrize(
    ("below", "number"),
    [(0, 0), (2, 0), (3, 1), (4, 2), (10, 4), (10**6, 78_498), (10**7, 664_579)],
)
def test_count_primes(below, number):
    assert count_primes(0, below)[0] == number


def test_count_primes_in_any_range():
    numbers = range(3000)
    primes = [n for n in numbers if n > 1 and all(n % d for d in range(2, n))]
    dice = random.Random(1)
    for _ in range(200):
        start, stop = sorted(dice.sample(numbers, 2))
        inside = [p for p in primes if start <= p < stop]
        assert count_primes(start, stop) == (len(inside), max(inside, default=0))


def test_heavy_computation_is_split_and_merged(reader, settings):
    settings.COMPUTE_PROCESSES = 3
    task = get_task("heavy_computation")
    context, params = begin(task, reader, size=100_000_000)
    parts = task.main(context, **params)
    assert isinstance(parts, Parts)
    assert len(parts.params) == 5
    counts = [task.part_function(context, **part) for part in parts.params]
    assert task.merge_function(context, counts, **params) == {
        "message": "Heavy computation finished",
        "size": 100_000_000,
        "primes": 5_761_455,
        "largest": 99_999_989,
    }


def test_small_computation_is_not_split(reader):
    task = get_task("heavy_computation")
    context, params = begin(task, reader, size=2)
    result = task.main(context, **params)
    assert (result["primes"], result["largest"]) == (0, None)


# --- export_items


def test_export_has_the_selected_items(reader):
    make_items(2_500, tags=["t"])
    make_item(id="other")
    task = get_task("export_items")
    context, params = begin(task, reader, format="csv", tag="t")
    result = task.main(context, **params)
    job = end(context, result)
    packed = content(job, "items.csv.gz")
    assert (result["rows"], result["bytes"]) == (2_500, len(packed))
    lines = gzip.decompress(packed).splitlines()
    assert len(lines) == 2_501
    assert b"other" not in packed


def test_export_names_invalid_parameters(reader):
    params = get_task("export_items").params(
        data={"format": "xml", "search": "w " * 20}
    )
    assert not params.is_valid()
    assert set(params.errors) == {"format"}
    params = get_task("export_items").params(data={"search": "w " * 20, "tag": "?"})
    assert not params.is_valid()
    assert set(params.errors) == {"search", "tag"}


# --- import_items


ROWS = "id,name\n" + "".join(
    f"{n},item {n}\n" if n % 10 else f"{n},\n" for n in range(1, 101)
)


def upload(text: str) -> SimpleUploadedFile:
    return SimpleUploadedFile("my.csv", text.encode(), "text/csv")


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(importing.batches, "__defaults__", (20,))


def test_import_writes_rows_and_stores_the_rejected(editor):
    task = get_task("import_items")
    context, params = begin(task, editor, file=upload(ROWS))
    result = task.main(context, **params)
    assert result == {
        "source": "my.csv", "lines": 101, "created": 90, "updated": 0, "unchanged": 0,
        "rejected": 10,
    }  # fmt: skip
    rejected = content(end(context, result), "rejects.csv").decode().splitlines()
    assert rejected[0] == "line,reason,row"
    assert len(rejected) == 11
    assert ItemChange.objects.values_list("actor", flat=True).distinct().get() == (
        editor.pk
    )


def test_interrupted_import_resumes_on_another_machine(
    editor, small_batches, monkeypatch
):
    """The next try may be on another machine: nothing but the database is left."""
    task = get_task("import_items")
    context, params = begin(task, editor, file=upload(ROWS))
    batches = 0

    class PowerCut(BaseException):
        pass

    append = files.append

    def fail(*args):
        nonlocal batches
        batches += 1
        size = append(*args)
        if batches == 3:
            raise PowerCut  # in the middle of a batch: all of it is taken back
        return size

    monkeypatch.setattr(files, "append", fail)
    with pytest.raises(PowerCut):
        task.main(context, **params)
    monkeypatch.undo()
    assert Item.objects.count() == 36

    Job.objects.update(lease_until="2000-01-01T00:00Z")
    assert completion.requeue_lost() == 1
    (claim,) = queue.claim("other", 1)
    again = TaskContext(claim, lambda fraction, message: None)
    result = task.main(again, **params)
    assert (result["created"], result["rejected"]) == (90, 10)
    rejected = content(end(again, result), "rejects.csv").decode().splitlines()
    assert len(rejected) == 11
    assert len(set(rejected)) == 11
    assert ImportRun.objects.count() == 1
    # Killed between the last batch and the end of the job: there is nothing to do.
    assert task.main(again, **params) == result


def test_import_of_an_unreadable_file_fails_for_good(editor):
    task = get_task("import_items")
    context, params = begin(task, editor, file=upload("colour\nred\n"))
    with pytest.raises(TaskFailed, match="name"):
        task.main(context, **params)


def test_import_reads_gzip(editor):
    packed = SimpleUploadedFile("my.csv.gz", gzip.compress(ROWS.encode()))
    task = get_task("import_items")
    context, params = begin(task, editor, file=packed)
    assert task.main(context, **params)["created"] == 90


# --- what a run gives


def test_frequent_progress_reports_are_dropped(reader):
    context, _ = begin(get_task("echo"), reader)
    reported = []
    context._on_progress = lambda fraction, message: reported.append(fraction)
    for step in range(1000):
        context.progress(step / 1000)
    assert 1 <= len(reported) < 10


def test_files_of_failed_attempts_are_deleted(reader):
    for outcome in (Lost(), Failed("error", "no")):
        context, _ = begin(get_task("echo"), reader)
        with context.file("a", "text/plain") as out:
            out.write(b"x")
        Job.objects.update(lease_until="2000-01-01T00:00Z")
        completion.finish(context.claim, outcome)
    (claim,) = queue.claim("worker", 1)
    again = TaskContext(claim, lambda fraction, message: None)
    with again.file("a", "text/plain") as out:
        out.write(b"y")
    job = end(again, None)
    assert queue.delete_orphaned_files() > 0
    assert content(job, "a") == b"y"
    assert Job.objects.get(state="failed").files.count() == 0


def test_input_file_equals_the_upload(editor):
    text = "id,name\n" + "1,x\n" * files.CHUNK_BYTES
    context, _ = begin(get_task("import_items"), editor, file=upload(text))
    with context.input("file") as stream:
        assert io.BytesIO(stream.read()).getvalue() == text.encode()
