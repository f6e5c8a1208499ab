import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import TextIOWrapper
from itertools import batched, chain, islice
from typing import Any

import orjson
from django.db import connection, transaction

from compute import files
from compute.item_changes import Params, change_of, describe, selected_items
from compute.models import Job, JobFile
from compute.registry import Parts, TaskFailed, has_permissions, task
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
COUNTS = ("changed", "unchanged", "rejected")
# From this number of items on, parts are worth starting them.
DIVIDED_FROM = 20_000
# Each keeps a core of the database busy: more would leave less to all others.
PARTS_MAX = 2


@dataclass(frozen=True)
class Share:
    """Portions of the selection, by their place in its file."""

    begin: int
    end: int
    selected: int


@dataclass(frozen=True)
class State:
    """How far the job, or a part, is: `offset` in the file with the selection."""

    selected: int
    is_dry: bool
    offset: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    # Lines in the file of differences.
    listed: int = 0
    is_finished: bool = False
    # What each part changes, if it is done in parts.
    shares: Sequence[Mapping[str, int]] = ()

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
    if state.shares:
        # Of an attempt whose parts are gone, they are made again.
        if rejects := _kept(context.job, REJECTS):
            rejects.delete()
        return Parts([params | {"share": share} for share in state.shares])
    state = _change(context, state, change)
    return _finish(context, state, change)


@change_items.part
def change_share(
    context: TaskContext, *, share: Mapping[str, int], **params: Any
) -> Any:
    saved, own = context.load_checkpoint(), Share(**share)
    state = State(own.selected, is_dry=False, offset=own.begin)
    state = State(**saved) if saved else state
    state = _change(context, state, change_of(params), own.end)
    return {name: getattr(state, name) for name in COUNTS}


@change_items.merge
def merge_shares(
    context: TaskContext, parts: list[dict[str, Any]], **params: Any
) -> Any:
    state = State(**context.load_checkpoint() or {})
    sums = {name: sum(part[name] for part in parts) for name in COUNTS}
    return _finish(context, replace(state, **sums), change_of(params))


def _begin(context: TaskContext, params: Mapping[str, Any], change: ItemData) -> State:
    """Store which items are to be changed: what is changed may be selected no more."""
    try:
        items = selected_items(params)
        selected = place = 0
        found: list[Share] = []
        with files.create(
            context.job, SELECTION, NDJSON, kind=JobFile.Kind.KEPT
        ) as file:
            for ids in portions(items, together="collection" in change):
                begin, selected = place, selected + len(ids)
                place += file.write(orjson.dumps(ids, option=orjson.OPT_APPEND_NEWLINE))
                found.append(Share(begin, place, len(ids)))
    except Invalid as error:
        raise TaskFailed(integrity.describe(error.errors or {})) from error
    if selected > params.get("number", selected):
        raise TaskFailed(
            f"There are {selected:,} items in this selection now, not "
            f"{params['number']:,}. Nothing was changed."
        )
    is_dry = params.get("dry_run", False)
    number = 1 if is_dry or selected < DIVIDED_FROM else _parts(context, change)
    shares = list(map(asdict, _divided(found, number))) if number > 1 else []
    state = State(selected, is_dry, shares=shares)
    with transaction.atomic():
        if not state.is_dry:
            title = f"Change {number_of_items(selected)}: {describe(change)}"
            kind, pk = ChangeBatch.Kind.JOB, context.job_id
            begin_batch(kind, title, actor=context.actor, id=pk)
        context.save_checkpoint(asdict(state))
    return state


def _parts(context: TaskContext, change: ItemData) -> int:
    """Return into how many parts the change can be divided."""
    if connection.vendor == "sqlite":
        return 1  # which has one writer at a time
    # Items in two parts that refer to each other would wait for each other.
    is_linked = not {"collection", *integrity.POINTERS}.isdisjoint(change)
    return 1 if is_linked else min(context.processes, PARTS_MAX)


def _divided(found: list[Share], number: int) -> Iterator[Share]:
    """Put portions that follow each other together, as many for each part."""
    for portion in batched(found, math.ceil(len(found) / number)):
        selected = sum(share.selected for share in portion)
        yield Share(portion[0].begin, portion[-1].end, selected)


def _change(
    context: TaskContext, state: State, change: ItemData, end: int | None = None
) -> State:
    """Change what is left of the portions, up to `end` in the file of the selection."""
    job = context.whole_job
    for ids, offset in _portions(job, state.offset, end):
        try:
            state = _proceed(context, job, state, ids, offset, change)
        except BatchEnded as error:
            raise TaskFailed(error.detail) from error
        share = state.done / max(1, state.selected)
        message = f"{state.done:,} of {state.selected:,} items"
        context.progress(share, f"{message} of a part" if end else message)
    return state


def _portions(
    job: Job, offset: int, end: int | None
) -> Iterator[tuple[list[str], int]]:
    """Yield the ids of each portion from `offset` to `end`, and where it ends."""
    file = _kept(job, SELECTION)
    if file is None:
        return
    with files.open_file(file) as stream:
        stream.seek(offset)
        while offset != end and (line := stream.readline()):
            offset += len(line)
            yield orjson.loads(line), offset


@atomic_with_retries
def _proceed(
    context: TaskContext,
    job: Job,
    state: State,
    ids: list[str],
    offset: int,
    change: ItemData,
) -> State:
    rows = [{"id": pk} | change for pk in ids]
    differences: list[Difference] = []

    def record(difference: Difference) -> None:
        if state.listed + len(differences) < DIFFERENCES_MAX:
            differences.append(difference)

    if state.is_dry:
        counts = staging.compare(rows, record=record)
    else:
        counts = staging.apply(rows, actor=context.actor, batch_id=job.pk)
    if counts.rejected:
        _list_rejected(job, counts.rejected)
    lines = list(chain.from_iterable(map(_cells, differences)))
    lines = lines[: DIFFERENCES_MAX - state.listed]
    if lines:
        names = render_csv([["id", "name", "field", "before", "after"]])
        files.append(job, DIFFERENCES, CSV, render_csv(lines), head=names)
    state = replace(
        state,
        offset=offset,
        changed=state.changed + counts.updated,
        unchanged=state.unchanged + counts.unchanged,
        rejected=state.rejected + len(counts.rejected),
        listed=state.listed + len(lines),
    )
    context.save_checkpoint(asdict(state))
    return state


def _list_rejected(job: Job, rejected: Mapping[str, str]) -> None:
    found = set(Item.objects.filter(pk__in=rejected).values_list("pk", flat=True))
    rows = [[pk, reason if pk in found else DELETED] for pk, reason in rejected.items()]
    names = render_csv([["id", "reject_reason"]])
    files.append(job, REJECTS, CSV, render_csv(rows), head=names)


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


def _finish(context: TaskContext, state: State, change: ItemData) -> dict[str, Any]:
    """End the batch, and return the result."""
    if not state.is_finished:
        with transaction.atomic():
            if not state.is_dry:
                finish_batch(context.job_id)
            if selection := _kept(context.job, SELECTION):
                selection.delete()
            context.save_checkpoint(asdict(replace(state, is_finished=True)))
    # What an attempt whose parts are gone has changed was found as it should be.
    batch = ChangeBatch.objects.filter(pk=context.job_id).first()
    earlier = batch.updated - state.changed if batch else 0
    state = replace(
        state, changed=state.changed + earlier, unchanged=state.unchanged - earlier
    )
    result = {
        "selected": state.selected,
        **{name: getattr(state, name) for name in COUNTS},
        "change": describe(change),
        "dry_run": state.is_dry,
        "rejects": _first_rows(context.job, REJECTS, REJECTS_SHOWN),
    }
    if state.is_dry:
        found = _first_rows(context.job, DIFFERENCES, DIFFERENCES_SHOWN)
        return result | {"differences": found}
    return result | {"batch": context.job_id if state.changed else None}


def _first_rows(job: Job, name: str, number: int) -> list[dict[str, str]]:
    """Return rows of a CSV file, as the page of the job shows them."""
    file = _kept(job, name)
    if file is None:
        return []
    with files.open_file(file) as stream:
        rows = csv.DictReader(TextIOWrapper(stream, newline=""))
        return [
            {column: unescape(cell)[:TEXT_SHOWN] for column, cell in row.items()}
            for row in islice(rows, number)
        ]


def _kept(job: Job, name: str) -> JobFile | None:
    return JobFile.objects.filter(job=job, kind=JobFile.Kind.KEPT, name=name).first()
