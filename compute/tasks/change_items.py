import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from io import TextIOWrapper
from itertools import chain, islice
from typing import Any

import orjson
from django.db import transaction

from compute import files
from compute.item_changes import Params, change_of, describe, selected_items
from compute.models import JobFile
from compute.registry import TaskFailed, has_permissions, task
from compute.task_context import TaskContext
from items import fields, inputs, integrity
from items.bulk import staging
from items.bulk.batches import BatchEnded, begin_batch, finish_batch, number_of_items
from items.bulk.portions import portions
from items.bulk.staging import Difference
from items.fields import ItemData
from items.models import ChangeBatch, Item
from resilient_site.api.csv_escaping import render_csv, unescape
from resilient_site.errors import Invalid
from resilient_site.resilience.transactions import atomic_with_retries

SELECTION, REJECTS, DIFFERENCES = "selection.ndjson", "rejects.csv", "differences.csv"
CSV, NDJSON = "text/csv; charset=utf-8", "application/x-ndjson"
DIFFERENCES_MAX = 10_000
DIFFERENCES_SHOWN = 100
REJECTS_SHOWN = 20
TEXT_SHOWN = 500
DELETED = "The item was deleted meanwhile."


@dataclass(frozen=True)
class State:
    """How far the job is: `offset` in the file with the selection, by portions."""

    selected: int
    is_dry: bool
    offset: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    # Lines in the file of differences.
    listed: int = 0
    is_finished: bool = False

    @property
    def done(self) -> int:
        return self.changed + self.unchanged + self.rejected


@task(
    params=Params,
    title="Change many items",
    time_limit_s=3600,
    memory_mb=1024,
    retries=5,
    may_run=has_permissions("items.change_item"),
)
def change_items(context: TaskContext, **params: Any) -> Any:
    """Change all items of a selection in the same way, however many.

    The items are those that are selected when the job starts. They are changed in
    portions, each in one transaction; a job that is cancelled leaves whole portions.
    Items for which the change breaks a rule are left as they are, and are in a file
    with the reasons. All changes are one batch.
    """
    change = change_of(params)
    saved = context.load_checkpoint()
    state = State(**saved) if saved else _begin(context, params, change)
    for ids, end in _portions(context, state.offset):
        try:
            state = _proceed(context, state, ids, end, change)
        except BatchEnded as error:
            raise TaskFailed(error.detail) from error
        share = state.done / max(1, state.selected)
        message = f"{state.done:,} of {state.selected:,} items"
        context.progress(share, message)
    if not state.is_finished:
        state = _finish(context, state)
    result = {
        "selected": state.selected,
        "changed": state.changed,
        "unchanged": state.unchanged,
        "rejected": state.rejected,
        "change": describe(change),
        "dry_run": state.is_dry,
        "rejects": _first_rows(context, REJECTS, REJECTS_SHOWN),
    }
    if state.is_dry:
        found = _first_rows(context, DIFFERENCES, DIFFERENCES_SHOWN)
        return result | {"differences": found}
    return result | {"batch": context.job_id if state.changed else None}


def _begin(context: TaskContext, params: Mapping[str, Any], change: ItemData) -> State:
    """Store which items are to be changed: what is changed may be selected no more."""
    try:
        items = selected_items(params)
        selected = 0
        with files.create(
            context.job, SELECTION, NDJSON, kind=JobFile.Kind.KEPT
        ) as file:
            for ids in portions(items, together="collection" in change):
                file.write(orjson.dumps(ids, option=orjson.OPT_APPEND_NEWLINE))
                selected += len(ids)
    except Invalid as error:
        raise TaskFailed(integrity.describe(error.errors or {})) from error
    if selected > params.get("number", selected):
        raise TaskFailed(
            f"There are {selected:,} items in this selection now, not "
            f"{params['number']:,}. Nothing was changed."
        )
    state = State(selected, params.get("dry_run", False))
    with transaction.atomic():
        if not state.is_dry:
            title = f"Change {number_of_items(selected)}: {describe(change)}"
            kind, pk = ChangeBatch.Kind.JOB, context.job_id
            begin_batch(kind, title, actor=context.actor, id=pk)
        context.save_checkpoint(asdict(state))
    return state


def _portions(context: TaskContext, offset: int) -> Iterator[tuple[list[str], int]]:
    """Yield the ids of each portion after `offset`, and where it ends."""
    file = _kept(context, SELECTION)
    if file is None:
        return
    with files.open_file(file) as stream:
        stream.seek(offset)
        for line in stream:
            offset += len(line)
            yield orjson.loads(line), offset


@atomic_with_retries
def _proceed(
    context: TaskContext, state: State, ids: list[str], end: int, change: ItemData
) -> State:
    rows = [{"id": pk} | change for pk in ids]
    differences: list[Difference] = []

    def record(difference: Difference) -> None:
        if state.listed + len(differences) < DIFFERENCES_MAX:
            differences.append(difference)

    if state.is_dry:
        counts = staging.compare(rows, record=record)
    else:
        counts = staging.apply(rows, actor=context.actor, batch_id=context.job_id)
    if counts.rejected:
        _list_rejected(context, state, counts.rejected)
    lines = list(chain.from_iterable(map(_cells, differences)))
    lines = lines[: DIFFERENCES_MAX - state.listed]
    if lines:
        names = [] if state.listed else [["id", "name", "field", "before", "after"]]
        files.append(context.job, DIFFERENCES, CSV, render_csv([*names, *lines]))
    state = replace(
        state,
        offset=end,
        changed=state.changed + counts.updated,
        unchanged=state.unchanged + counts.unchanged,
        rejected=state.rejected + len(counts.rejected),
        listed=state.listed + len(lines),
    )
    context.save_checkpoint(asdict(state))
    return state


def _list_rejected(
    context: TaskContext, state: State, rejected: Mapping[str, str]
) -> None:
    found = set(Item.objects.filter(pk__in=rejected).values_list("pk", flat=True))
    rows = [[pk, reason if pk in found else DELETED] for pk, reason in rejected.items()]
    names = [] if state.rejected else [["id", "reject_reason"]]
    files.append(context.job, REJECTS, CSV, render_csv([*names, *rows]))


def _cells(difference: Difference) -> Iterator[list[str]]:
    """Yield the cells of each field that differs, attributes each by itself."""
    declared = {field.name: field for field in fields.STATE_FIELDS}
    before = difference.before or {}
    for name, value in difference.after.items():
        old = before.get(name)
        if name != "attributes":
            texts = [declared[name].to_text(one) for one in (old, value)]
            yield [difference.id, difference.name, name, *texts]
            continue
        old = old or {}
        for member in sorted({*old, *value}):
            pair = [one.get(member) for one in (old, value)]
            if pair[0] != pair[1]:
                texts = ["" if one is None else inputs.show_any(one) for one in pair]
                yield [difference.id, difference.name, f"{name}.{member}", *texts]


@transaction.atomic
def _finish(context: TaskContext, state: State) -> State:
    if not state.is_dry:
        finish_batch(context.job_id)
    if selection := _kept(context, SELECTION):
        selection.delete()
    state = replace(state, is_finished=True)
    context.save_checkpoint(asdict(state))
    return state


def _first_rows(context: TaskContext, name: str, number: int) -> list[dict[str, str]]:
    """Return rows of a CSV file, as the page of the job shows them."""
    file = _kept(context, name)
    if file is None:
        return []
    with files.open_file(file) as stream:
        rows = csv.DictReader(TextIOWrapper(stream, newline=""))
        return [
            {column: unescape(cell)[:TEXT_SHOWN] for column, cell in row.items()}
            for row in islice(rows, number)
        ]


def _kept(context: TaskContext, name: str) -> JobFile | None:
    kept = JobFile.objects.filter(kind=JobFile.Kind.KEPT, name=name)
    return kept.filter(job=context.job_id).first()
