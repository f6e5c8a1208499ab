"""Finding duplicates: every group and pair once, the best ones, whatever is there."""

import csv
import io
from functools import partial

import pytest

from compute import completion, files
from compute.models import Job, JobFile
from compute.outcomes import Split
from compute.registry import TaskFailed, get_task
from compute.tasks import find_duplicates as module
from compute.tasks.algorithms import duplicates
from items.models import Item, Tag
from tests.compute.factories import begin, claim, do, end
from tests.factories import make_item

pytestmark = [pytest.mark.django_db, pytest.mark.once]


@pytest.fixture
def search(reader, settings):
    """Run the task, split in parts if there are enough items; return the job."""
    settings.COMPUTE_PROCESSES = 2
    return partial(do, "find_duplicates", reader)


def add(*names_and_descriptions, tags=()) -> None:
    """Items with the ids a, b, c and so on."""
    for letter, (name, *description) in zip(
        "abcdefghijklm", names_and_descriptions, strict=False
    ):
        description = "".join(description)
        make_item(id=letter, name=name, description=description, tags=list(tags))


def pairs(job: Job) -> list[tuple[str, str]]:
    return [(pair["first"]["id"], pair["second"]["id"]) for pair in job.result["pairs"]]


def table(job: Job) -> list[dict[str, str]]:
    content = b"".join(files.read(job.result_files().get(name="pairs.csv")))
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def test_search_pairs_identical_items_first(search):
    add(("Bolt", "x"), ("Bolt", "long"), ("bolt", " LONG"), ("Nut", "long"))
    job = search(field="both")
    fields = {
        (pair["first"]["id"], pair["second"]["id"]): (pair["score"], pair["field"])
        for pair in job.result["pairs"]
    }
    assert fields == {
        ("a", "b"): (1, "name"), ("b", "c"): (1, "both"), ("b", "d"): (1, "description")
    }  # fmt: skip


def test_result_has_both_items_and_the_score(search):
    add(("Brass bolt", "M8 " * 200), ("Bras bolt", ""), ("Washer", "M8"))
    result = search(field="name", threshold=0.9).result
    (pair,) = result["pairs"]
    assert (pair["score"], pair["field"]) == (0.9474, "name")
    assert pair["first"]["name"] == "Brass bolt"
    assert len(pair["first"]["description"]) == 200
    assert pair["second"] == {"id": "b", "name": "Bras bolt", "description": ""}
    assert (result["found"], result["compared"]) == (1, 3)
    assert (result["threshold"], result["field"]) == (0.9, "name")


@pytest.mark.parametrize(
    ("split_from", "field"), [(1, "name"), (100, "description"), (1, "both")]
)
def test_best_pairs_are_first_up_to_the_limit(search, monkeypatch, split_from, field):
    monkeypatch.setattr(module, "SPLIT_FROM", split_from)
    texts = "aaaaaaaaab", "aaaaaaaaac", "bolt nut M8", "bolt nut M8", "bolt"
    add(*[(text, text) for text in texts])
    job = search(field=field, threshold=0.5, limit=2)
    assert job.parts.count() == (2 if split_from == 1 else 0)
    assert pairs(job) == [("c", "d"), ("a", "b")]
    assert [pair["score"] for pair in job.result["pairs"]] == [1, 0.9]
    assert {pair["field"] for pair in job.result["pairs"]} == {field}
    assert job.result["truncated"]
    assert len(table(job)) == 2


@pytest.mark.parametrize("names", [[], ["One"], ["a", "b", "螺"]], ids=ascii)
def test_search_without_matches_is_empty(search, names):
    """An empty description agrees with none."""
    add(*[(name, "") for name in names])
    job = search(field="both", threshold=0.5)
    assert (job.result["pairs"], job.result["found"]) == ([], 0)
    assert table(job) == []


@pytest.mark.parametrize(
    "texts",
    [
        ("C++", "c++"), ("...", "..."), ("螺栓", "螺栓"), ("STRASSE", "straße"),
        ("ﬁne bolt", "fine  bolt"), ("e\u0301clair", "\u00e9clair"), ("ＡＢＣ", "abc"),
    ],
    ids=ascii,
)  # fmt: skip
def test_case_spacing_and_code_points_are_normalized(search, texts):
    add(*[(text,) for text in texts])
    (pair,) = search(threshold=1).result["pairs"]
    assert pair["score"] == 1


def test_punctuation_is_significant(search):
    add(("C",), ("C++",), ("C#",))
    assert pairs(search(threshold=0.85)) == []


@pytest.mark.parametrize(
    ("letter", "least", "most"), [("d", 300, 300), ("螺", 50, 299)]
)
def test_many_equal_items_make_a_bounded_result(
    search, monkeypatch, letter, least, most
):
    """In the number of pairs and in bytes."""
    monkeypatch.setattr(module, "SPLIT_FROM", 100)
    Item.objects.bulk_create(
        Item(id=f"i{n:05}", name=4 * letter, description=500 * letter, search_text="")
        for n in range(2_000)
    )
    job = search(field="both", limit=1_000)
    assert (job.result["found"], job.result["truncated"]) == (1_000, True)
    assert pairs(job)[:2] == [("i00000", "i00001"), ("i00000", "i00002")]
    assert least <= len(job.result["pairs"]) <= most
    assert len(table(job)) == 1_000


def test_search_is_limited_to_a_tag(search):
    add(("Bolt",), ("Bolt",), tags=["metal"])
    make_item(id="z", name="Bolt", tags=[])
    job = search(tag="Metal")
    assert pairs(job) == [("a", "b")]
    Tag.objects.create(name="unused")
    assert search(tag="unused").result["compared"] == 0


def test_item_deleted_meanwhile_is_omitted(search, monkeypatch):
    add(("Bolt",), ("Bolt",), ("Bolt",))
    ranked = duplicates.ranked

    def after_deletion(found):
        Item.objects.filter(pk="b").delete()
        return ranked(found)

    monkeypatch.setattr(duplicates, "ranked", after_deletion)
    job = search()
    assert pairs(job) == [("a", "c")]
    assert job.result["found"] == 1


def test_part_without_its_file_fails_the_job(reader):
    context = begin("find_duplicates", reader)
    completion.finish(context.claim, Split([{}]))
    end(claim(), {"is_cut": False, "compared": 1})
    with pytest.raises(JobFile.DoesNotExist):
        module.merge_parts(claim(), [])


def test_too_much_text_is_a_failure_of_the_task(search, monkeypatch):
    add(("Bolt",), ("Nut",))
    monkeypatch.setattr(duplicates, "normalize", lambda text: bytes(2**62))
    with pytest.raises(TaskFailed, match="Choose a tag, or one field"):
        search()


def test_invalid_parameters_are_named():
    for threshold in (0.4, 1.1):
        params = {"threshold": threshold, "field": "id", "tag": "?", "limit": 0}
        serializer = get_task("find_duplicates").params(data=params)
        assert not serializer.is_valid()
        assert set(serializer.errors) == set(params)
