"""Finding duplicates: every group and pair once, the best ones, whatever is there."""

import csv
import io
import random
from collections import defaultdict
from functools import partial
from itertools import combinations

import pytest
from rapidfuzz.distance import Indel

from compute import files
from compute.models import Job
from compute.registry import get_task
from compute.tasks import find_duplicates as module
from compute.tasks.algorithms import duplicates
from compute.tasks.algorithms.duplicates import normalize
from items.models import Item
from tests.compute.factories import do
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


def make_catalogue(number: int) -> None:
    """Items of a few words, many of them equal, nearly equal or empty."""
    dice = random.Random(number)
    words = "bolt nut screw brass steel large 螺栓 螺母 für - + M8 M10".split()  # noqa: SIM905
    rows = []
    for n in range(number):
        name = " ".join(dice.choices(words, k=dice.randint(1, 3)))
        text = " ".join(dice.choices(words, k=dice.choice([0, 0, 2, 4])))
        if dice.random() < 0.3:
            name, text = name.upper(), f"  {text} "
        pk = f"i{dice.randrange(10**9)}-{n}"
        rows.append(Item(id=pk, name=name, description=text, search_text=""))
    Item.objects.bulk_create(rows)


def expected(field: str, threshold: float) -> dict[tuple[str, str], float]:
    """What must be found, by comparing everything with everything."""
    groups = defaultdict(list)
    for item in Item.objects.order_by("pk"):
        if text := normalize(getattr(item, field)):
            groups[text].append(item.pk)
    scores = {
        (members[0], other): 1.0 for members in groups.values() for other in members[1:]
    }
    for one, other in combinations(groups, 2):
        score = Indel.normalized_similarity(one, other)
        if score >= threshold - 1e-9:
            scores[groups[one][0], groups[other][0]] = score
    return {(min(pair), max(pair)): score for pair, score in scores.items()}


@pytest.mark.parametrize(
    ("split_from", "field", "threshold"),
    [
        (10, "name", 0.6),
        (10, "description", 0.85),
        (10_000, "name", 0.85),
        (10_000, "description", 1),
    ],
)
def test_search_finds_the_same_as_an_exhaustive_comparison(
    search, monkeypatch, split_from, field, threshold
):
    monkeypatch.setattr(module, "SPLIT_FROM", split_from)
    make_catalogue(300)
    job = search(field=field, threshold=threshold, limit=100_000)
    rows = table(job)
    found = {(row["first_id"], row["second_id"]): float(row["score"]) for row in rows}
    assert len(found) == len(rows) == job.result["found"]
    assert found == pytest.approx(expected(field, threshold), abs=1e-4)
    assert len(found) > 20
    assert not job.result["truncated"]
    assert job.parts.count() == (2 if split_from == 10 else 0)


def test_search_in_both_fields_has_each_pair_once(search, monkeypatch):
    monkeypatch.setattr(module, "SPLIT_FROM", 10)
    make_catalogue(120)
    rows = table(search(field="both", threshold=0.8, limit=100_000))
    found = {(row["first_id"], row["second_id"]): row for row in rows}
    assert len(found) == len(rows)
    texts = {
        item.pk: (normalize(item.name), normalize(item.description))
        for item in Item.objects.all()
    }
    for (first, second), row in found.items():
        scores = [
            Indel.normalized_similarity(one, other) if one else 0
            for one, other in zip(texts[first], texts[second], strict=True)
        ]
        assert first < second
        assert float(row["score"]) == pytest.approx(max(scores), abs=1e-4)
    # No match of either field is lost: matching items are connected.
    groups = connected(found)
    for field in ("name", "description"):
        for first, second in expected(field, 0.8):
            assert groups[first] is groups[second]


def connected(pairs) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for first, second in pairs:
        union = groups.get(first, {first}) | groups.get(second, {second})
        groups |= dict.fromkeys(union, union)
    return groups


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


def test_best_pairs_are_first_up_to_the_limit(search):
    add(("aaaaaaaaab",), ("aaaaaaaaac",), ("bolt nut M8",), ("bolt nut M8",), ("bolt",))
    job = search(threshold=0.5, limit=2)
    assert pairs(job) == [("c", "d"), ("a", "b")]
    assert job.result["truncated"]
    assert len(table(job)) == 2


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("One", "")],
        [("One", ""), ("Other thing", "")],
        [("?!", ""), ("+-", ""), ("§", "")],
        [("a", ""), ("b", ""), ("螺", "")],
    ],
    ids=ascii,
)
def test_search_without_matches_is_empty(search, rows):
    add(*rows)
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
    assert search(tag="unknown").result["compared"] == 0


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


def test_invalid_parameters_are_named():
    for threshold in (0.4, 1.1):
        params = {"threshold": threshold, "field": "id", "tag": "?", "limit": 0}
        serializer = get_task("find_duplicates").params(data=params)
        assert not serializer.is_valid()
        assert set(serializer.errors) == set(params)
