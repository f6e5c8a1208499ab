"""The task that changes many items in the same way."""

import csv
import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import connection
from django.urls import reverse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from compute import completion, jobs
from compute.models import Job, JobFile
from compute.outcomes import ErrorCode, Failed, Split
from compute.registry import TaskFailed, get_task
from compute.task_context import ClaimLost
from compute.tasks import change_items as module
from items import catalogue
from items.bulk import portions
from items.bulk.undo import undo_batch
from items.collections import editing
from items.models import ChangeBatch, Item, ItemChange
from resilient_site.errors import Invalid
from tests.compute.factories import begin, claim, do, end
from tests.compute.tasks.test_tasks import content
from tests.factories import TESTER, make_item, make_items

pytestmark = pytest.mark.django_db

SCHEMA = {
    "properties": {
        "size": {"type": "integer", "x-filterable": True},
        "region": {"type": "string", "maxLength": 5},
        "zip": {"type": "string"},
    }
}
RETIRED = {"status": "retired"}
on_postgresql = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="it has one writer at a time"
)


@pytest.fixture(autouse=True)
def small_portions(monkeypatch) -> None:
    monkeypatch.setattr(portions, "PORTION", 2)
    monkeypatch.setattr(portions, "SQLITE_PORTION", 2)


@pytest.fixture
def collections(db) -> None:
    editing.create_collection({"key": "bolts", "name": "Bolts", "schema": SCHEMA})
    editing.create_collection({"key": "nuts", "name": "Nuts"})


@pytest.fixture
def bolts(collections) -> list[Item]:
    return [
        make_item(
            collection="bolts", code=code, attributes={"size": size}, tags=["old"]
        )
        for code, size in zip("abcde", range(1, 6), strict=True)
    ]


def states() -> dict[str, dict[str, Any]]:
    return {item.pk: item.state() for item in Item.objects.for_reading()}


def rows(job: Job, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content(job, name).decode())))


def errors(**params: Any) -> dict[str, Any]:
    serializer = get_task("change_items").params(data=params)
    return {} if serializer.is_valid() else dict(serializer.errors)


@pytest.mark.parametrize(
    ("change", "field", "value", "words"),
    [
        ({"status": "retired"}, "status", "retired", "status retired"),
        ({"set_attributes": {"region": "EMEA", "size": None}}, "attributes",
         {"region": "EMEA"}, "region = EMEA, without size"),
        ({"add_tags": ["new"], "remove_tags": ["old"]}, "tags", ["new"],
         "with the tag new, without the tag old"),
        ({"valid_to": "2026-12-31"}, "valid_to", "2026-12-31", "valid to 2026-12-31"),
        ({"parent": "bolts.top"}, "parent", "bolts.top", "parent bolts.top"),
        ({"replaced_by": "bolts.top"}, "replaced_by", "bolts.top", "bolts.top"),
        ({"clear": ["valid_from"]}, "valid_from", None, "without valid from"),
    ],
)  # fmt: skip
def test_all_items_of_a_selection_are_changed(
    bolts, editor, change, field, value, words
):
    make_item(collection="bolts", code="top", tags=[])
    catalogue.update_item("bolts.a", {"valid_from": "2020-01-01"}, actor=TESTER)
    before = states()
    job = do("change_items", editor, filter="tag=old", number=5, **change)
    changed = 1 if "clear" in change else 5
    expected = [5, changed, 5 - changed, 0]
    names = ("selected", "changed", "unchanged", "rejected")
    assert [job.result[name] for name in names] == expected
    for pk, state in states().items():
        others = before[pk] if pk == "bolts.top" else before[pk] | {field: value}
        assert state == others
    batch = ChangeBatch.objects.get()
    assert (job.result["batch"], batch.updated) == (str(batch.pk), changed)
    assert batch.title.startswith("Change 5 items: ")
    assert batch.title.endswith(words)
    made = ItemChange.objects.filter(batch=batch.pk, actor=editor)
    assert made.count() == changed
    assert not job.result_files().exists()


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ({"filter": "collection=bolts"}, "abcde"),
        ({"filter": "/items/?collection=bolts&ordering=-name"}, "abcde"),
        ({"filter": {"collection": "bolts", "attributes.size__gt": 3}}, "de"),
        ({"filter": "collection=bolts&code=a&code=b"}, "ab"),
        ({"filter": {"tag": ["old"], "status": "active", "code": ["c"]}}, "c"),
        ({"filter": "parent=bolts.a"}, "b"),
        ({"filter": "ancestor=bolts.a"}, "bc"),
        ({"filter": "search=findme"}, "d"),
        ({"filter": "valid_on=2020-01-01"}, "bcde"),
        ({"filter": "updated_since=2020-01-01"}, "abcde"),
        ({"ids": ["bolts.b", "nix"]}, "b"),
        ({"all": True}, "abcde"),
    ],
    ids=str,
)
def test_items_are_selected_as_lists_select_them(bolts, editor, selection, selected):
    for code, values in {
        "a": {"valid_from": "2021-01-01"},
        "b": {"parent": "bolts.a"},
        "c": {"parent": "bolts.b"},
        "d": {"description": "Findme"},
    }.items():
        catalogue.update_item(f"bolts.{code}", values, actor=TESTER)
    do("change_items", editor, **selection, add_tags=["new"])
    found = Item.objects.tagged(["new"]).values_list("code", flat=True)
    assert "".join(sorted(found)) == selected


def test_items_that_no_longer_match_by_their_change_are_all_changed(bolts, editor):
    catalogue.update_item("bolts.b", {"parent": "bolts.a"}, actor=TESTER)
    catalogue.update_item("bolts.c", {"parent": "bolts.b"}, actor=TESTER)
    job = do("change_items", editor, filter="ancestor=bolts.a", clear=["parent"])
    assert job.result["changed"] == 2
    job = do("change_items", editor, filter="tag=old", remove_tags=["old"])
    assert (job.result["changed"], job.result["rejected"]) == (5, 0)


def test_dry_run_shows_what_would_change_and_changes_nothing(
    bolts, editor, editor_client
):
    before = states()
    job = do(
        "change_items", editor, filter="collection=bolts", dry_run=True,
        set_attributes={"size": 3, "region": "=EMEA"}, remove_tags=["old"],
    )  # fmt: skip
    result = job.result
    assert (result["changed"], result["rejected"], result["dry_run"]) == (5, 0, True)
    assert states() == before
    assert not ChangeBatch.objects.exists()
    assert ItemChange.objects.count() == 5
    listed = rows(job, module.DIFFERENCES)
    assert len(listed) == 5 * 3 - 1  # one has the size already
    assert result["differences"][0] == {
        "id": "bolts.a", "name": "Brass bolt", "field": "attributes.region",
        "before": "", "after": "=EMEA",
    }  # fmt: skip
    assert listed[0]["after"] == "'=EMEA"  # for spreadsheets it is no formula
    page = editor_client.get(job.get_absolute_url()).content.decode()
    assert "5 of 5 items would be changed" in page
    assert "attributes.region" in page
    assert f"like={job.pk}" in page


@pytest.mark.once
def test_dry_run_lists_a_bounded_number_of_differences(bolts, editor, monkeypatch):
    monkeypatch.setattr(module, "DIFFERENCES_MAX", 3)
    monkeypatch.setattr(module, "DIFFERENCES_SHOWN", 1)
    job = do("change_items", editor, all=True, dry_run=True, **RETIRED)
    assert job.result["changed"] == 5
    assert len(rows(job, module.DIFFERENCES)) == 3
    assert len(job.result["differences"]) == 1


def test_items_that_break_a_rule_are_left_and_listed(bolts, editor, editor_client):
    make_item(collection="nuts", code="n", tags=["old"], valid_from="2030-01-01")
    job = do(
        "change_items", editor, filter="tag=old", valid_to="2026-12-31",
        set_attributes={"size": "big"},
    )  # fmt: skip
    assert (job.result["changed"], job.result["rejected"]) == (0, 6)
    assert not ChangeBatch.objects.exists()
    reasons = {row["id"]: row["reject_reason"] for row in rows(job, module.REJECTS)}
    assert reasons.keys() == {item.pk for item in bolts} | {"nuts.n"}
    assert "attributes.size: " in reasons["bolts.a"]
    assert "Must not be before" in reasons["nuts.n"]
    page = editor_client.get(job.get_absolute_url()).content.decode()
    assert "6 items were left as they are" in page
    assert job.result["rejects"][0] == rows(job, module.REJECTS)[0]
    assert "Must not be before" in page
    assert f"files/{module.REJECTS}" in page


def test_item_deleted_meanwhile_is_rejected(bolts, editor):
    context = begin("change_items", editor, filter="tag=old", **RETIRED)
    context._on_progress = lambda *_: (
        catalogue.delete_items(["bolts.e"], actor=TESTER)
        if Item.objects.filter(pk="bolts.e").exists()
        else None
    )
    task = get_task("change_items")
    job = end(context, task.main(context, **context.claim.params))
    assert (job.result["changed"], job.result["rejected"]) == (4, 1)
    assert rows(job, module.REJECTS) == [
        {"id": "bolts.e", "reject_reason": module.DELETED}
    ]


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("at", ["save_checkpoint", "progress"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_killed_job_goes_on_where_it_was(bolts, editor, monkeypatch, at, dry_run):
    """Before a portion is committed, or after it."""
    make_item(collection="bolts", code="f", valid_from="2030-01-01", tags=["old"])
    change = {"valid_to": "2026-12-31", "remove_tags": ["old"], "dry_run": dry_run}
    context = begin("change_items", editor, filter="tag=old", **change)
    task, params = get_task("change_items"), context.claim.params
    calls: Iterator[int] = iter(range(100))
    original = getattr(context, at)

    def fail(*args: Any) -> None:
        original(*args)
        if next(calls) == 2:
            raise PowerCut

    setattr(context, at, fail)
    with pytest.raises(PowerCut):
        task.main(context, **params)
    make_item(id="later", tags=["old"])
    Job.objects.update(lease_until="2000-01-01T00:00Z")
    assert completion.requeue_lost() == 1
    again = claim()
    result = task.main(again, **params)
    assert (result["changed"], result["rejected"]) == (5, 1)
    assert task.main(again, **params) == result  # killed at its very end
    job = end(again, result)
    assert len(rows(job, module.REJECTS)) == 1
    if dry_run:
        assert len(rows(job, module.DIFFERENCES)) == 10
    else:
        assert ItemChange.objects.filter(version=2).count() == 5
        assert ChangeBatch.objects.get().updated == 5
        assert Item.objects.get(pk="later").valid_to is None
    kept = JobFile.objects.filter(job=job.pk).values_list("name", flat=True)
    assert module.SELECTION not in kept


def test_job_that_is_undone_while_it_runs_changes_nothing_more(
    bolts, editor, monkeypatch
):
    context = begin("change_items", editor, filter="tag=old", remove_tags=["old"])
    calls: Iterator[int] = iter(range(100))

    def undo(*args: Any) -> None:
        if next(calls) == 0:
            undo_batch(context.job_id, actor=context.actor)

    monkeypatch.setattr(context, "progress", undo)
    with pytest.raises(TaskFailed, match="undone before all"):
        get_task("change_items").main(context, **context.claim.params)
    assert ItemChange.objects.filter(batch=context.job_id).count() == 2
    assert set(ChangeBatch.objects.values_list("undone", flat=True)) == {True, False}
    assert Item.objects.filter(tags__name="old").count() == 5


@pytest.fixture
def in_parts(settings, monkeypatch) -> None:
    settings.COMPUTE_PROCESSES = 8
    monkeypatch.setattr(module, "DIVIDED_FROM", 2)


@on_postgresql
def test_parts_of_a_job_make_one_batch_and_one_list_of_reasons(
    bolts, editor, in_parts, editor_client
):
    for code in "xyz":
        make_item(collection="bolts", code=code, valid_from="2030-01-01", tags=["old"])
    catalogue.update_item("bolts.a", {"valid_to": "2026-12-31"}, actor=TESTER)
    before = states()
    job = do("change_items", editor, filter="tag=old", valid_to="2026-12-31")
    assert [
        part.params["share"]["selected"] for part in job.parts.order_by("part")
    ] == [
        4,
        4,
    ]
    names = ("selected", "changed", "unchanged", "rejected")
    assert [job.result[name] for name in names] == [8, 4, 1, 3]
    listed = rows(job, module.REJECTS)
    assert {row["id"] for row in listed} == {"bolts.x", "bolts.y", "bolts.z"}
    assert job.result["rejects"] == listed
    batch = ChangeBatch.objects.get()
    assert (str(batch.pk), batch.updated) == (job.result["batch"], 4)
    assert batch.finished_at
    assert not JobFile.objects.filter(name=module.SELECTION).exists()
    page = editor_client.get(job.get_absolute_url()).content.decode()
    assert "4 of 8 items were changed" in page
    undo_batch(batch.pk, actor=TESTER)
    assert states() == before


@on_postgresql
@pytest.mark.parametrize("at", ["save_checkpoint", "progress"])
def test_killed_part_goes_on_where_it_was(bolts, editor, in_parts, at):
    """Before a portion is committed, or after it."""
    for code in "wxyz":
        make_item(collection="bolts", code=code, tags=["old"])
    make_item(collection="bolts", code="f", valid_from="2030-01-01", tags=["old"])
    change = {"valid_to": "2026-12-31", "remove_tags": ["old"]}
    context = begin("change_items", editor, filter="tag=old", **change)
    task, params = get_task("change_items"), context.claim.params
    split = task.main(context, **params)
    assert task.main(context, **params) == split  # killed at its very end
    completion.finish(context.claim, Split(split.params))
    calls: Iterator[int] = iter(range(100))
    part = claim()
    original = getattr(part, at)

    def fail(*args: Any) -> None:
        original(*args)
        if next(calls) == 1:
            raise PowerCut

    setattr(part, at, fail)
    with pytest.raises(PowerCut):
        task.part_function(part, **part.claim.params)
    Job.objects.filter(pk=part.job_id).update(lease_until="2000-01-01T00:00Z")
    assert completion.requeue_lost() == 1
    make_item(id="later", tags=["old"])
    for _ in split.params:
        part = claim()
        result = task.part_function(part, **part.claim.params)
        assert task.part_function(part, **part.claim.params) == result
        end(part, result)
    merging = claim()
    done = merging.part_results()
    result = task.merge_function(merging, done, **params)
    assert task.merge_function(merging, done, **params) == result
    assert (result["changed"], result["rejected"]) == (9, 1)
    assert len(rows(end(merging, result), module.REJECTS)) == 1
    assert ItemChange.objects.filter(version=2).count() == 9
    assert ChangeBatch.objects.get().updated == 9
    assert Item.objects.get(pk="later").tags.exists()


@on_postgresql
def test_attempt_after_a_failed_merge_reports_what_was_changed_before(
    bolts, editor, in_parts
):
    make_item(collection="bolts", code="f", valid_from="2030-01-01", tags=["old"])
    context = begin("change_items", editor, filter="tag=old", valid_to="2026-12-31")
    task, params = get_task("change_items"), context.claim.params
    for attempt in range(2):
        if attempt:
            completion.finish(merging.claim, Failed(ErrorCode.ERROR, "Bang."))  # noqa: F821
            assert jobs.retry(Job.objects.get(pk=context.job_id))
            context = claim()
        split = task.main(context, **params)
        completion.finish(context.claim, Split(split.params))
        for _ in split.params:
            part = claim()
            end(part, task.part_function(part, **part.claim.params))
        merging = claim()
    result = task.merge_function(merging, merging.part_results(), **params)
    names = ("selected", "changed", "unchanged", "rejected", "batch")
    expected = [6, 5, 0, 1, ChangeBatch.objects.get().pk]
    assert [result[name] for name in names] == expected
    assert len(rows(end(merging, result), module.REJECTS)) == 1


@on_postgresql
@pytest.mark.parametrize(
    "change",
    [{"parent": "bolts.a"}, {"clear": ["replaced_by"]}, {"collection": "nuts"},
     {"dry_run": True, **RETIRED}],
    ids=str,
)  # fmt: skip
def test_change_that_links_items_is_not_divided(bolts, editor, in_parts, change):
    job = do("change_items", editor, filter="tag=old", **change)
    assert job.result["selected"] == 5
    assert not job.parts.exists()


@pytest.mark.once
def test_worker_that_has_lost_the_job_changes_nothing(bolts, editor):
    context = begin("change_items", editor, filter="tag=old", **RETIRED)
    task, params = get_task("change_items"), context.claim.params
    Job.objects.update(lease_until="2000-01-01T00:00Z")
    completion.requeue_lost()
    other = claim()
    with pytest.raises(ClaimLost):
        task.main(context, **params)
    assert not Item.objects.filter(status="retired").exists()
    assert task.main(other, **params)["changed"] == 5


@pytest.mark.once
def test_no_more_are_changed_than_were_confirmed(bolts, editor):
    assert errors(filter="tag=old", number=4, **RETIRED) == {
        "number": ["There are 5 items in this selection."]
    }
    context = begin("change_items", editor, filter="tag=old", number=5, **RETIRED)
    make_item(tags=["old"])
    with pytest.raises(TaskFailed, match="6 items in this selection now, not 5"):
        get_task("change_items").main(context, **context.claim.params)
    assert not Item.objects.filter(status="retired").exists()
    assert not ChangeBatch.objects.exists()


def test_items_that_refer_to_each_other_move_together(bolts, editor):
    """They are more than a portion has, and those between them are alone."""
    for code, parent in {"c": "a", "e": "c"}.items():
        values = {"parent": f"bolts.{parent}"}
        catalogue.update_item(f"bolts.{code}", values, actor=TESTER)
    catalogue.update_item("bolts.d", {"replaced_by": "bolts.b"}, actor=TESTER)
    job = do("change_items", editor, filter="collection=bolts", collection="nuts")
    assert (job.result["changed"], job.result["rejected"]) == (5, 0)
    moved = Item.objects.filter(collection="nuts").order_by("code")
    assert [item.pk for item in moved] == [f"bolts.{code}" for code in "abcde"]
    assert moved.get(code="e").parent_id == "bolts.c"


def test_item_to_which_others_refer_stays_with_them(bolts, editor):
    catalogue.update_item("bolts.c", {"parent": "bolts.a"}, actor=TESTER)
    job = do("change_items", editor, ids=["bolts.a", "bolts.b"], collection="nuts")
    assert (job.result["changed"], job.result["rejected"]) == (1, 1)
    [row] = rows(job, module.REJECTS)
    assert "“bolts.c” refers to it in its own collection" in row["reject_reason"]


@pytest.mark.once
def test_family_that_is_too_large_is_divided(bolts, editor, monkeypatch):
    monkeypatch.setattr(portions, "TOGETHER_MAX", 2)
    for code in "bcd":
        values = {"parent": "bolts.a"}
        catalogue.update_item(f"bolts.{code}", values, actor=TESTER)
    found = list(portions.portions(Item.objects.all(), together=True))
    assert [len(ids) for ids in found] == [1, 2, 2]
    assert len({pk for ids in found for pk in ids}) == 5


@pytest.mark.once
@pytest.mark.parametrize(
    ("params", "name", "message"),
    [
        (RETIRED, "filter", "Choose the items"),
        ({"filter": "tag=old", "all": True} | RETIRED, "filter", "Choose the items"),
        ({"all": True}, "non_field_errors", "Choose what is to be changed"),
        ({"filter": "nix=1"} | RETIRED, "filter", "not known"),
        ({"filter": "cursor=1"} | RETIRED, "filter", "not known"),
        ({"filter": {"tag": {"a": 1}}} | RETIRED, "filter", "Must be a text"),
        ({"filter": ["tag"]} | RETIRED, "filter", "Must be a query string"),
        ({"filter": "attributes.size=1"} | RETIRED, "filter", "within one"),
        ({"filter": "search=" + "x " * 20} | RETIRED, "filter", "at most 16 words"),
        ({"filter": "tag=unknown"} | RETIRED, "filter", "There are no such items"),
        ({"ids": ["nix"]} | RETIRED, "ids", "There are no such items"),
        ({"all": True, "status": "gone"}, "status", "not a valid choice"),
        ({"all": True, "valid_to": "soon"}, "valid_to", "wrong format"),
        ({"all": True, "parent": "a b"}, "parent", "without spaces"),
        ({"all": True, "parent": "nix"}, "parent", "There is no item “nix”"),
        ({"all": True, "parent": None}, "parent", "may not be null"),
        ({"all": True, "collection": "nix"}, "collection", "There is no collection"),
        ({"all": True, "add_tags": ['a"b']}, "add_tags", "quotes"),
        ({"all": True, "set_attributes": {"a b": 1}}, "set_attributes", "not a name"),
        ({"all": True, "set_attributes": "{"}, "set_attributes", "Must be JSON"),
        ({"all": True, "set_attributes": "x"}, "set_attributes", "name = value"),
        ({"all": True, "set_attributes": [1]}, "set_attributes", "Must be an object"),
        ({"all": True, "valid_to": "2026-01-01", "clear": ["valid_to"]}, "clear",
         "given a value as well"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_parameter_is_named(bolts, params, name, message):
    found = errors(**params)
    assert list(found) == [name]
    assert message in str(found[name])


@pytest.mark.once
def test_form_takes_lines_typed_by_the_schema(bolts, editor, editor_client):
    address = "/jobs/new/change_items/"
    shown = editor_client.get(f"{address}?filter=tag%3Dold&number=5").content.decode()
    assert 'value="tag=old"' in shown
    assert 'value="5"' in shown
    sent = {
        "filter": "collection=bolts", "number": "5", "add_tags": "dark red\nnew\n",
        "set_attributes": "size = 7\nregion=\nzip = 0815\nother = true",
    }  # fmt: skip
    response = editor_client.post(address, sent)
    assert response.status_code == 302, response.content.decode()
    job = Job.objects.get()
    assert job.params["set_attributes"] == {
        "size": 7, "region": None, "zip": "0815", "other": True,
    }  # fmt: skip
    assert job.params["add_tags"] == ["dark red", "new"]
    assert job.params.keys() == {"filter", "number", "add_tags", "set_attributes"}
    again = editor_client.get(f"{address}?like={job.pk}&number=4").content.decode()
    assert "&quot;zip&quot;: &quot;0815&quot;" in again
    assert 'value="4"' in again
    wrong = editor_client.post(address, sent | {"set_attributes": "size = big"})
    assert "size: Must be a whole number" in wrong.content.decode()


def test_changes_of_a_job_are_undone_as_one(bolts, editor, editor_client):
    before = states()
    job = do("change_items", editor, filter="tag=old", remove_tags=["old"], **RETIRED)
    batch = reverse("items:batch", args=[job.result["batch"]])
    assert batch in editor_client.get(job.get_absolute_url()).content.decode()
    assert "Change 5 items" in editor_client.get(batch).content.decode()
    undo = f"/api/v1/batches/{job.result['batch']}/undo"
    client = APIClient()
    client.force_authenticate(editor)
    response = client.post(undo, {}, format="json")
    assert response.status_code in (200, 201), response.content
    assert states() == before


@pytest.mark.once
def test_job_is_submitted_over_rest_by_those_who_may_change_items(
    bolts, reader, editor, api
):
    params = {"filter": {"tag": ["old"], "attributes.size__lte": 2}} | RETIRED
    body = {"task": "change_items", "params": params}
    wrong = api.post("/api/v1/jobs", body, format="json")
    assert wrong.status_code == 400
    assert "within one" in str(wrong.json()["errors"])
    params["filter"]["collection"] = "bolts"
    api.force_authenticate(reader)
    assert api.post("/api/v1/jobs", body, format="json").status_code == 403
    api.force_authenticate(editor)
    assert api.post("/api/v1/jobs", body, format="json").status_code == 202
    context = claim()
    result = get_task("change_items").main(context, **context.claim.params)
    assert result["changed"] == 2


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["active", "draft", "retired"]),
        "valid_to": st.sampled_from(["2020-01-01", "2026-12-31"]),
        "collection": st.sampled_from(["bolts", "nuts", "general"]),
        "parent": st.sampled_from(["bolts.a", "bolts.c", "lone"]),
        "clear": st.sampled_from([["replaced_by"], ["valid_from"]]),
        "set_attributes": st.dictionaries(
            st.sampled_from(["size", "region", "x"]),
            st.sampled_from([None, 1, "EMEA", "too long"]),
            min_size=1,
        ),
        "add_tags": st.sampled_from([["old"], ["new", "b"]]),
        "remove_tags": st.sampled_from([["old"], ["metal", "b"]]),
    },
).filter(lambda change: change and not {"collection", "parent"} <= change.keys())


@pytest.mark.once
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(change=CHANGES)
def test_job_equals_changes_one_by_one(collections, editor, change):
    ItemChange.objects.all().delete()
    Item.objects.all().delete()
    for code, values in {
        "a": {"attributes": {"size": 1}, "tags": ["old"]},
        "b": {"valid_from": "2021-01-01", "status": "draft"},
        "c": {"attributes": {"region": "EMEA"}, "tags": ["metal", "new"]},
    }.items():
        make_item(collection="bolts", code=code, **values)
    make_item(id="lone", valid_to="2020-01-01")
    before = states()
    expected = dict(before)
    for pk, state in before.items():
        row = module.change_of(change)
        attributes = state["attributes"] | row.pop("set_attributes", {})
        kept = {*state["tags"]} - {*row.pop("remove_tags", [])}
        tags = sorted({*kept, *row.pop("add_tags", [])})
        given_ones = {n: v for n, v in attributes.items() if v is not None}
        row |= {"attributes": given_ones, "tags": tags}
        with suppress(Invalid):
            expected[pk] = catalogue.update_item(pk, row, actor=TESTER).state()
            catalogue.update_item(pk, state, actor=TESTER)
    do("change_items", editor, all=True, **change)
    found = states()
    differing = {
        pk: (found[pk], expected[pk]) for pk in found if found[pk] != expected[pk]
    }
    assert (change, differing) == (change, {})


@pytest.mark.once
def test_tags_of_a_thousand_items_are_changed_in_portions(editor, monkeypatch):
    monkeypatch.setattr(portions, "PORTION", 400)
    make_items(1000, tags=["t"])
    job = do("change_items", editor, filter="tag=t", remove_tags=["t"], **RETIRED)
    assert job.result["changed"] == 1000
    assert {*Item.objects.values_list("version", "status")} == {(2, "retired")}
