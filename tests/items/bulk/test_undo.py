"""Undo of a batch: what it touched is as before, whatever it did to it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from items import catalogue
from items.bulk import staging, undo
from items.bulk.batches import BatchEnded, begin_batch, finish_batch
from items.bulk.undo import undo_batch
from items.bulk.undo_conflicts import BatchChangedSince, find_conflicts
from items.fields import ItemData
from items.models import ChangeBatch, Collection, Item, ItemChange
from resilient_site.errors import SiteError
from tests.factories import TESTER, changes_of, make_item, make_items
from tests.threads import while_uncommitted

pytestmark = pytest.mark.django_db

BULK = ChangeBatch.Kind.BULK
LINK = {"relation": "exactMatch", "target": "kin.p"}
KIN = {
    "properties": {
        "kin": {"type": "string", "x-reference": "kin"},
        "size": {"type": "integer", "default": 1},
    }
}


def states() -> dict[str, ItemData]:
    return {item.pk: item.state() for item in Item.objects.for_reading()}


def batch_of(*writes: Callable[[UUID], object]) -> ChangeBatch:
    batch = begin_batch(BULK, "Test", actor=TESTER)
    for write in writes:
        write(batch.pk)
    finish_batch(batch.pk)
    return ChangeBatch.objects.get(pk=batch.pk)


def applied(*rows: ItemData) -> Callable[[UUID], object]:
    def write(batch_id: UUID) -> None:
        counts = staging.apply(rows, actor=TESTER, batch_id=batch_id)
        assert counts.errors == {}

    return write


def deleted(*ids: str) -> Callable[[UUID], object]:
    return lambda pk: catalogue.delete_items(ids, actor=TESTER, batch_id=pk)


def undone(batch: ChangeBatch, **options: Any) -> undo.Undone:
    return undo_batch(batch.pk, actor=TESTER, **options)


@pytest.fixture
def kin(db: None) -> Collection:
    return Collection.objects.create(key="kin", name="Kin", schema=KIN)


@pytest.fixture
def family(kin: Collection) -> ChangeBatch:
    """A batch that has created, changed and deleted items that refer to each other."""
    make_item(id="kin.old", collection="kin", code="old")
    make_item(id="kin.gone", collection="kin", code="gone", attributes={"kin": "old"})
    make_item(id="kin.heir", collection="kin", code="heir", parent="kin.gone")
    Item.objects.filter(pk="kin.gone").update(attributes={"kin": "old"})
    return batch_of(
        applied(
            {"id": "kin.p", "collection": "kin", "code": "p", "name": "P"},
            {"id": "kin.c", "collection": "kin", "code": "c", "name": "C",
             "parent": "kin.p", "links": [LINK], "attributes": {"kin": "p"}},
            {"id": "kin.old", "parent": "kin.p", "attributes": {"kin": "c"},
             "tags": ["new"], "name": "Other"},
            {"id": "kin.heir", "parent": None},
        ),
        applied({"id": "kin.old", "description": "again"}),
        deleted("kin.gone"),
        # The code of the one that was deleted.
        applied({"id": "taker", "collection": "kin", "code": "gone", "name": "T"},
                {"id": "kin.heir", "parent": "taker"}),
    )  # fmt: skip


def test_undo_restores_creates_and_deletes_what_refers_to_each_other(family):
    after = states()
    result = undone(family)
    assert result.conflicts == {}
    assert result.batch
    counts = result.batch.created, result.batch.updated, result.batch.deleted
    assert counts == (1, 2, 3)
    assert result.batch.undoes == family
    assert states().keys() == {"kin.old", "kin.gone", "kin.heir"}
    assert states()["kin.old"] == changes_of("kin.old").last().after
    assert states()["kin.heir"]["parent"] == "kin.gone"
    assert states()["kin.gone"] == changes_of("kin.gone").last().after | {
        "attributes": {"kin": "old"}
    }
    assert Item.objects.get(pk="kin.gone").version == 3
    family.refresh_from_db()
    assert family.undone

    again = undone(result.batch)
    assert (states(), again.conflicts) == (after, {})
    family.refresh_from_db()
    assert not family.undone
    before = undone(family)  # the first one again
    assert before.batch
    assert before.conflicts == {}
    assert states().keys() == {"kin.old", "kin.gone", "kin.heir"}
    assert undone(family) == (None, {})  # as before already


IDS = ["a", "b", "c", "d"]
ROWS = st.fixed_dictionaries(
    {"id": st.sampled_from(IDS), "name": st.sampled_from(["A", "B"])},
    optional={
        "parent": st.sampled_from([*IDS, None]),
        "replaced_by": st.sampled_from([*IDS, None]),
        "tags": st.lists(st.sampled_from("tu"), unique=True).map(sorted),
        "links": st.lists(
            st.sampled_from(IDS).map(lambda pk: LINK | {"target": pk}), max_size=1
        ),
        "status": st.sampled_from(["draft", "retired"]),
    },
)
WRITES = st.lists(
    st.one_of(
        st.lists(ROWS, min_size=1, unique_by=lambda row: row["id"]),
        st.lists(st.sampled_from(IDS), min_size=1, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=5,
)


def write(writes: list[Any], batch_id: UUID | None = None) -> None:
    for given_ in writes:
        if isinstance(given_, list):
            staging.apply(given_, actor=TESTER, batch_id=batch_id)
            continue
        with suppress(SiteError):  # others refer to it
            catalogue.delete_items(given_, actor=TESTER, batch_id=batch_id)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=WRITES, writes=WRITES, size=st.none() | st.integers(1, 3))
def test_undo_of_any_batch_makes_all_as_before(before, writes, size, monkeypatch):
    with transaction.atomic():
        check_undo(before, writes, size, monkeypatch)
        transaction.set_rollback(True)


def check_undo(
    before: list[Any], writes: list[Any], size: int | None, monkeypatch: Any
) -> None:
    write(before)
    was = states()
    batch = begin_batch(BULK, "Test", actor=TESTER)
    write(writes, batch.pk)
    if size is None:
        assert undone(batch).conflicts == {}
    else:
        in_portions(batch, monkeypatch, size)
    assert states() == was


def in_portions(
    batch: ChangeBatch, monkeypatch: Any, size: int, **options: Any
) -> ChangeBatch:
    monkeypatch.setattr(undo, "PORTION", size)
    monkeypatch.setattr(undo, "SQLITE_PORTION", size)
    made = undo.begin_portions(batch, actor=TESTER, id=ChangeBatch().pk)
    while not undo.undo_portion(made.pk, actor=TESTER, **options).is_last:
        pass
    finish_batch(made.pk)
    return made


# --- conflicts


def test_undo_is_refused_if_others_have_changed_an_item_since(family):
    catalogue.update_item("kin.old", {"name": "Mine"}, actor=TESTER)
    after = states()
    with pytest.raises(BatchChangedSince) as caught:
        undone(family)
    items = {item["id"]: item for item in caught.value.members["items"]}
    assert caught.value.members["count"] == 3
    assert items["kin.old"] == {
        "id": "kin.old", "code": "changed_since", "detail": "It was changed since.",
        "version": 3, "version_now": 4, "changed_by": "tester",
    }  # fmt: skip
    # It refers to these.
    assert {items["kin.p"]["code"], items["kin.c"]["code"]} == {"item_referenced"}
    assert items["kin.c"]["detail"] == "The item “kin.old” refers to it by kin."
    assert states() == after
    assert ChangeBatch.objects.count() == 1


def test_conflicts_are_skipped_on_request(family):
    catalogue.update_item("kin.old", {"name": "Mine"}, actor=TESTER)
    result = undone(family, skip_conflicts=True)
    assert {*result.conflicts} == {"kin.old", "kin.p", "kin.c"}
    assert states().keys() == {"kin.old", "kin.p", "kin.c", "kin.gone", "kin.heir"}
    assert states()["kin.old"]["name"] == "Mine"


def test_plan_says_what_an_undo_does(family):
    assert undo.plan(family) == (2, 1, 3, {})
    catalogue.update_item("kin.old", {"name": "Mine"}, actor=TESTER)
    planned = undo.plan(family)
    assert planned[:3] == (1, 1, 1)
    assert {*planned.conflicts} == {"kin.old", "kin.p", "kin.c"}
    found = find_conflicts(family)
    # What another item of the batch refers to is found when it comes to that.
    assert {pk: why.code for pk, why in found.items()} == {"kin.old": "changed_since"}


def test_batches_are_undone_one_after_the_other_from_the_last():
    make_item(id="a", name="0")
    batches = [batch_of(applied({"id": "a", "name": name})) for name in "12"]
    batches.append(batch_of(deleted("a")))
    with pytest.raises(BatchChangedSince):
        undone(batches[0])
    for batch in batches[::-1]:
        assert find_conflicts(batch) == {}
        assert undone(batch).batch
    assert states()["a"]["name"] == "0"


REFERENCES = [
    {"parent": "kin.p"},
    {"replaced_by": "kin.p"},
    {"links": [LINK]},
    {"attributes": {"kin": "p"}},
]


@pytest.mark.parametrize("reference", REFERENCES)
def test_created_item_that_others_refer_to_is_a_conflict(kin, reference):
    batch = batch_of(
        applied({"id": "kin.p", "collection": "kin", "code": "p", "name": "P"},
                {"id": "kin.q", "collection": "kin", "code": "q", "name": "Q"})
    )  # fmt: skip
    make_item(id="kin.x", collection="kin", code="x", **reference)
    assert {*find_conflicts(batch)} == {"kin.p"}
    with pytest.raises(BatchChangedSince) as caught:
        undone(batch)
    [item] = caught.value.members["items"]
    assert (item["id"], item["code"]) == ("kin.p", "item_referenced")
    undone(batch, skip_conflicts=True)
    assert states().keys() == {"kin.p", "kin.x"}


def test_state_that_breaks_a_rule_by_now_is_a_conflict(kin):
    make_item(id="kin.a", collection="kin", code="a")
    make_item(id="kin.b", collection="kin", code="b", parent="kin.a")
    batch = batch_of(
        applied({"id": "kin.b", "parent": None, "code": "bb"}), deleted("kin.a")
    )
    make_item(id="other", collection="kin", code="a")
    with pytest.raises(BatchChangedSince) as caught:
        undone(batch)
    reasons = {item["id"]: item["detail"] for item in caught.value.members["items"]}
    assert "has this code already" in reasons["kin.a"]
    assert undone(batch, skip_conflicts=True).batch is None
    assert states().keys() == {"kin.b", "other"}


def test_purged_contents_are_a_conflict():
    make_items(2)
    batch = batch_of(applied({"id": "item-00000", "name": "X"}), deleted("item-00001"))
    catalogue.purge_items(["item-00001"], actor=TESTER)
    with pytest.raises(BatchChangedSince) as caught:
        undone(batch)
    [item] = caught.value.members["items"]
    assert (item["id"], item["code"]) == ("item-00001", "purged")
    undone(batch, skip_conflicts=True)
    assert states()["item-00000"]["name"] == "Item 00000"


def test_edit_of_another_between_two_of_the_batch_is_a_conflict():
    make_item(id="a")
    batch = batch_of(
        applied({"id": "a", "name": "B"}),
        lambda pk: catalogue.update_item("a", {"name": "C"}, actor=TESTER),
        applied({"id": "a", "name": "D"}),
    )
    assert {*find_conflicts(batch)} == {"a"}
    with pytest.raises(BatchChangedSince):
        undone(batch)


def test_item_is_created_again_without_defaults_of_today(kin):
    make_item(id="kin.a", collection="kin", code="a")
    before = catalogue.update_item("kin.a", {"attributes": {}}, actor=TESTER).state()
    undone(batch_of(deleted("kin.a")))
    assert states()["kin.a"] == before


@pytest.mark.parametrize("count", [1_000, 1_001])
def test_batch_of_many_changes_needs_a_job(count):
    batch = begin_batch(BULK, "Test", actor=TESTER)
    ChangeBatch.objects.filter(pk=batch.pk).update(updated=count)
    if count == 1_000:
        undone(batch)
    else:
        with pytest.raises(undo.BatchNeedsJob):
            undone(batch)


def test_undo_of_what_is_unknown_is_not_found():
    with pytest.raises(undo.BatchNotFound):
        undo_batch(ChangeBatch().pk, actor=TESTER)


# --- portions


def test_portions_keep_what_was_written_together(monkeypatch):
    rows = [{"id": f"p{n}", "name": "P", "parent": f"p{(n + 1) // 2 * 2}"}
            for n in range(1, 4)]  # fmt: skip
    batch = batch_of(
        applied({"id": "p2", "name": "P"}, {"id": "p4", "name": "P"}),
        applied(*[row for row in rows if row["id"] not in ("p2",)]),
        applied(*({"id": f"p{n}", "name": "Q"} for n in range(1, 5))),
    )
    monkeypatch.setattr(undo, "PORTION", 2)
    monkeypatch.setattr(undo, "SQLITE_PORTION", 2)
    made = undo.begin_portions(batch, actor=TESTER, id=ChangeBatch().pk)
    portions = [undo.undo_portion(made.pk, actor=TESTER) for _ in range(3)]
    assert [portion.changes for portion in portions] == [4, 2, 2]
    assert portions[-1].is_last
    assert not Item.objects.exists()


def test_interrupted_undo_goes_on_and_is_undone_itself(monkeypatch):
    make_items(6)
    batch = batch_of(*(applied({"id": f"item-0000{n}", "name": "X"}) for n in range(6)))
    monkeypatch.setattr(undo, "PORTION", 2)
    monkeypatch.setattr(undo, "SQLITE_PORTION", 2)
    first = undo.begin_portions(batch, actor=TESTER, id=ChangeBatch().pk)
    undo.undo_portion(first.pk, actor=TESTER)
    assert undo.begin_portions(batch, actor=TESTER, id=ChangeBatch().pk) == first
    undo.undo_portion(first.pk, actor=TESTER)
    first.refresh_from_db()
    assert first.updated == 4
    undone(first)
    assert {state["name"] for state in states().values()} == {"X"}
    with pytest.raises(undo.BatchNotFound, match="undone itself"):
        undo.undo_portion(first.pk, actor=TESTER)
    in_portions(batch, monkeypatch, 2)
    assert {state["name"] for state in states().values()} != {"X"}


def test_what_is_left_out_of_a_portion_is_left_out_of_all(kin, monkeypatch):
    make_item(id="kin.a", collection="kin", code="a")
    batch = batch_of(
        applied({"id": "kin.a", "name": "1"}),
        applied({"id": "kin.a", "name": "2", "code": "b"}),
        applied({"id": "kin.c", "collection": "kin", "code": "c", "name": "C"}),
    )
    make_item(id="kin.x", collection="kin", code="x", attributes={"kin": "b"})
    made = in_portions(batch, monkeypatch, 1, skip_conflicts=True)
    assert states()["kin.a"]["name"] == "2"
    assert not Item.objects.filter(pk="kin.c").exists()
    assert ChangeBatch.objects.get(pk=made.pk).deleted == 1


def test_batch_takes_no_more_changes_once_it_is_undone():
    """An import or a job that is interrupted, undone and then goes on."""
    make_items(2)
    batch = begin_batch(ChangeBatch.Kind.JOB, "Test", actor=TESTER)
    rows = [{"id": "item-00000", "name": "X"}]
    staging.apply(rows, actor=TESTER, batch_id=batch.pk)
    undone(batch)
    rows = [{"id": "item-00001", "name": "X"}]
    with pytest.raises(BatchEnded):
        staging.apply(rows, actor=TESTER, batch_id=batch.pk)
    with pytest.raises(BatchEnded):
        catalogue.delete_items(["item-00001"], actor=TESTER, batch_id=batch.pk)
    assert "X" not in {state["name"] for state in states().values()}
    assert len(states()) == 2
    assert batch.changes_in_log().count() == 1


# --- others at the same time


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_undo_first", [True, False])
def test_edit_during_an_undo_is_not_lost(is_undo_first):
    make_items(2)
    batch = batch_of(applied({"id": "item-00000", "name": "X"}), deleted("item-00001"))

    def edit() -> None:
        catalogue.update_item("item-00000", {"description": "mine"}, actor=TESTER)
        make_item(id="item-00001", description="mine")

    writers = [lambda: undone(batch), edit]
    first, second = while_uncommitted(*(writers if is_undo_first else writers[::-1]))
    if is_undo_first:
        assert second.code == "item_exists"
        assert states()["item-00000"]["name"] == "Item 00000"
    else:
        assert first is None
        assert second.members["count"] == 2
        assert {state["description"] for state in states().values()} == {"mine"}


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_batch_is_undone_once_by_two_at_one_time():
    make_items(2)
    batch = batch_of(applied({"id": "item-00000", "name": "X"}), deleted("item-00001"))
    first, second = while_uncommitted(lambda: undone(batch), lambda: undone(batch))
    assert first.batch
    assert second == (None, {})
    assert ItemChange.objects.filter(batch=first.batch.pk).count() == 2
