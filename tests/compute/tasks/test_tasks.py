"""What the tasks do, called as the plain functions they are."""

import gzip
import json
import random
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.exceptions import ValidationError

from compute import completion, files, queue
from compute.models import Job
from compute.outcomes import Failed, Lost
from compute.registry import TaskFailed, get_task
from compute.tasks.algorithms.primes import count_primes
from items import catalogue
from items.collections import editing
from items.models import ChangeBatch, ImportRun, Item, ItemChange
from tests.compute.factories import begin, claim, do, end
from tests.factories import TESTER, make_item, make_items
from tests.items.imports.cases import CASES, Case

pytestmark = pytest.mark.django_db


def content(job: Job, name: str) -> bytes:
    return b"".join(files.read(job.result_files().get(name=name)))


# --- heavy_computation


@pytest.mark.once
def test_primes_are_counted_in_any_range():
    assert count_primes(0, 10**7)[0] == 664_579
    numbers = range(3000)
    primes = [n for n in numbers if n > 1 and all(n % d for d in range(2, n))]
    dice = random.Random(1)
    for _ in range(200):
        start, stop = sorted(dice.sample(numbers, 2))
        inside = [p for p in primes if start <= p < stop]
        assert count_primes(start, stop) == (len(inside), max(inside, default=0))


@pytest.mark.once
def test_heavy_computation_is_split_and_merged(reader, settings):
    settings.COMPUTE_PROCESSES = 3
    job = do("heavy_computation", reader, size=100_000_000)
    assert job.parts.count() == 3
    assert job.result == {
        "message": "Heavy computation finished",
        "size": 100_000_000,
        "primes": 5_761_455,
        "largest": 99_999_989,
    }


# --- export_items


@pytest.mark.once
def test_export_has_the_selected_items(reader):
    make_items(30, tags=["t"])
    make_item(id="other")
    job = do("export_items", reader, format="csv", tag="t")
    packed = content(job, "items.csv.gz")
    assert (job.result["rows"], job.result["bytes"]) == (30, len(packed))
    lines = gzip.decompress(packed).splitlines()
    assert len(lines) == 31
    assert b"other" not in packed


@pytest.mark.once
def test_export_has_what_a_filter_selects(reader):
    make_items(3, tags=["t"])
    make_item(id="old", status="retired")
    job = do("export_items", reader, format="ndjson", filter="status=retired")
    packed = content(job, "items.ndjson.gz")
    [line] = gzip.decompress(packed).splitlines()
    assert json.loads(line)["id"] == "old"


@pytest.mark.once
def test_export_takes_words_or_a_filter():
    params = get_task("export_items").params(data={"filter": "tag=t", "search": "x"})
    assert not params.is_valid()
    assert set(params.errors) == {"filter"}


@pytest.mark.once
@pytest.mark.parametrize(
    "data",
    [
        {"format": "xml"},
        {"search": "w " * 20},
        {"tag": "?"},
        {"tag": "unknown"},
        {"filter": "colection=a"},
        {"filter": {"status": "no"}},
    ],
    ids=str,
)
@pytest.mark.django_db
def test_export_names_invalid_parameters(data):
    params = get_task("export_items").params(data=data)
    assert not params.is_valid()
    assert set(params.errors) == set(data)


# --- delete_items


@pytest.mark.once
def test_deletion_goes_on_after_a_kill_and_takes_no_more_than_was_confirmed(
    editor, monkeypatch
):
    monkeypatch.setattr(catalogue, "DELETE_BATCH", 2)
    make_items(5, tags=["t"])
    make_item(id="other")
    params = get_task("delete_items").params(data={"tag": "t", "number": 4})
    assert not params.is_valid()
    assert params.errors == {"number": ["There are 5 items in this selection."]}
    context = begin("delete_items", editor, tag="t", number=5)
    task, params = get_task("delete_items"), context.claim.params

    class PowerCut(BaseException):
        pass

    def fail(fraction: float, message: str) -> None:
        raise PowerCut(fraction, message)

    context._on_progress = fail
    with pytest.raises(PowerCut, match="2 of 5 items"):
        task.main(context, **params)
    assert Item.objects.count() == 4
    for number in "new", "newer", "newest":
        make_item(id=number, tags=["t"])
    with pytest.raises(TaskFailed, match="6 items in this selection now, not 5"):
        task.main(context, **params)
    catalogue.delete_items(["new", "newer", "newest"], actor=TESTER)
    context._on_progress = lambda fraction, message: None
    assert task.main(context, **params) == {"deleted": 5, "batch": context.job_id}
    assert Item.objects.get().pk == "other"
    deleted = ItemChange.objects.filter(action="deleted", actor=editor)
    assert deleted.count() == 5
    batch = ChangeBatch.objects.get()
    assert (batch.title, batch.deleted) == ("Delete 5 items", 5)
    assert {*deleted.values_list("batch", flat=True)} == {batch.pk} == {context.job_id}
    assert batch.finished_at


@pytest.mark.once
@pytest.mark.parametrize("others", [1, 2])
def test_deletion_counts_what_it_has_deleted_itself(editor, monkeypatch, others):
    ids = [item.pk for item in make_items(2, tags=["t"])]
    context = begin("delete_items", editor, tag="t", number=2)
    delete = catalogue.delete_items

    def delete_after_others(item_ids, **options):
        delete(ids[:others], actor=TESTER)
        delete(item_ids, **options)

    monkeypatch.setattr(catalogue, "delete_items", delete_after_others)
    result = get_task("delete_items").main(context, **context.claim.params)
    assert result["deleted"] == 2 - others
    assert result["batch"] == (context.job_id if others == 1 else None)


@pytest.mark.once
def test_deletion_takes_what_is_referred_to_after_what_refers_to_it(
    editor, monkeypatch
):
    monkeypatch.setattr(catalogue, "DELETE_BATCH", 1)
    make_item(id="a", tags=["t"])
    make_item(id="b", tags=["t"], parent="a")
    make_item(id="c", tags=["t"])
    make_item(id="other", parent="c")
    context = begin("delete_items", editor, tag="t", number=3)
    task, params = get_task("delete_items"), context.claim.params
    with pytest.raises(TaskFailed, match="2 of 3 items were deleted.*“other” to “c”"):
        task.main(context, **params)
    catalogue.delete_item("other", actor=TESTER)
    assert task.main(context, **params)["deleted"] == 3
    assert not Item.objects.exists()


# --- import_items


ROWS = "id,name\n" + "".join(
    f"{n},item {n}\n" if n % 10 else f"{n},\n" for n in range(1, 101)
)


def upload(content: str | bytes) -> SimpleUploadedFile:
    raw = content.encode() if isinstance(content, str) else content
    return SimpleUploadedFile("my.csv", raw, "text/csv")


def test_interrupted_import_resumes_on_another_machine(editor, monkeypatch):
    """Nothing but the database is left of the first try."""
    context = begin("import_items", editor, file=upload(ROWS))
    task, params = get_task("import_items"), context.claim.params
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

    with monkeypatch.context() as patched:
        patched.setattr("items.imports.batch.BATCH_ROWS", 20)
        patched.setattr(files, "append", fail)
        with pytest.raises(PowerCut):
            task.main(context, **params)
    assert Item.objects.count() == 36

    Job.objects.update(lease_until="2000-01-01T00:00Z")
    assert completion.requeue_lost() == 1
    again = claim()
    result = task.main(again, **params)
    assert (result["created"], result["rejected"]) == (90, 10)
    rejected = content(end(again, result), "rejects.csv").decode().splitlines()
    assert len(rejected) == 11
    assert len(set(rejected)) == 11
    assert {change.actor for change in ItemChange.objects.all()} == {editor}
    assert ImportRun.objects.count() == 1
    # Killed between the last batch and the end of the job: there is nothing to do.
    assert task.main(again, **params) == result


EQUAL = {"collection": "parts", "mode": "make_equal", "delimiter": ";"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_import_makes_a_collection_equal_to_a_file(dry_run, editor):
    editing.create_collection({"key": "parts", "name": "Parts"})
    for code in "ABC":
        make_item(id=f"parts.{code}", name=code, collection="parts", code=code)
    file = upload("code;name;attributes.size\nA;New;12\nD;D;\n")
    job = do("import_items", editor, file=file, dry_run=dry_run, **EQUAL)
    result = job.result
    found = [result[n] for n in ("created", "updated", "unchanged", "missing")]
    assert found == [1, 1, 0, 2]
    statuses = dict(Item.objects.values_list("code", "status"))
    if dry_run:
        assert statuses == dict.fromkeys("ABC", "active")
        lines = content(job, "differences.csv").decode().splitlines()
        assert "2,parts.A,attributes.size,,12" in lines
        assert ",parts.B,status,active,retired" in lines
        assert not ImportRun.objects.exists()
    else:
        assert statuses == {
            "A": "active",
            "B": "retired",
            "C": "retired",
            "D": "active",
        }
        assert (result["retired"], result["deleted"]) == (2, 0)
        assert ChangeBatch.objects.get(pk=result["batch"]).updated == 3


@pytest.mark.once
@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"mode": "make_equal"}, "collection"),
        ({"collection": "nix"}, "collection"),
        ({"delimiter": "x"}, "delimiter"),
        ({"missing": "burn"}, "missing"),
        ({"columns": ["a=attributes.b c"]}, "columns"),
    ],
)
def test_import_with_wrong_parameters_is_not_begun(params, name, editor):
    with pytest.raises(ValidationError) as caught:
        do("import_items", editor, file=upload(ROWS), **params)
    assert caught.value.detail.keys() == {name}
    assert not Job.objects.exists()


@pytest.mark.once
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_import_reads_files_as_others_write_them(case: Case, editor):
    chosen = dict(case.chosen)
    columns = [f"{name}={to}" for name, to in chosen.pop("columns", {}).items()]
    options = {"file": upload(case.content), "columns": columns, **chosen}
    if case.error:
        with pytest.raises(TaskFailed, match=re.escape(case.error)) as failure:
            do("import_items", editor, **options)
        assert "Nothing was imported" in str(failure.value)
    else:
        result = do("import_items", editor, **options).result
        assert result["rejected"] == case.rejected
        assert case.found in result["format"]
    found = {item.pk: (item.name, item.description) for item in Item.objects.all()}
    assert found == case.items


def test_import_of_a_file_that_is_cut_off_says_what_is_in(editor, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 400)
    rows = "".join(f"{n},item {n} {hash(n * 7919)}\n" for n in range(2_400))
    packed = gzip.compress(f"id,name\n{rows}".encode())
    damaged = upload(packed[: len(packed) * 8 // 10])
    context = begin("import_items", editor, file=damaged)
    task, params = get_task("import_items"), context.claim.params
    for _ in "first", "again, as its process was killed before it could say so":
        with pytest.raises(TaskFailed) as failure:
            task.main(context, **params)
        assert "damaged" in str(failure.value)
        done = Item.objects.count()
        assert 0 < done < 2_400
        assert done % 400 == 0
        assert f"up to line {done + 1:,} are in: {done:,} items" in str(failure.value)
        assert "mend the file and import it again" in str(failure.value)
    result = do("import_items", editor, file=upload(packed)).result
    assert (result["created"], result["unchanged"]) == (2_400 - done, done)


@pytest.mark.once
@pytest.mark.parametrize(
    "data",
    [
        {"encoding": "ebcdic"},
        {"columns": ["Code"]},
        {"columns": ["Code=colour"]},
        {"columns": ["a=name"] * 201},
        {"duplicates": "all"},
        {"sheet": "x" * 101},
    ],
    ids=lambda data: str(data)[:30],
)
def test_import_names_invalid_parameters(data):
    params = get_task("import_items").params(data=data | {"file": upload("name\n")})
    assert not params.is_valid()
    assert set(params.errors) == set(data)


# --- what a run gives


@pytest.mark.once
def test_frequent_progress_reports_are_dropped(reader):
    context = begin("echo", reader)
    reported = []
    context._on_progress = lambda fraction, message: reported.append(fraction)
    for step in range(1000):
        context.progress(step / 1000)
    assert 1 <= len(reported) < 10


def test_files_of_failed_attempts_are_deleted(reader):
    for outcome in (Lost(), Failed("error", "no")):
        context = begin("echo", reader)
        with context.file("a", "text/plain") as out:
            out.write(b"x")
        Job.objects.update(lease_until="2000-01-01T00:00Z")
        completion.finish(context.claim, outcome)
    again = claim()
    with again.file("a", "text/plain") as out:
        out.write(b"y")
    job = end(again, None)
    assert queue.delete_orphaned_files() > 0
    assert content(job, "a") == b"y"
    assert Job.objects.get(state="failed").files.count() == 0
