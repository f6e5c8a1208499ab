"""Duplicate pairs found by a job, with their items as they are now, and their merge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator

from compute.models import Job
from items import catalogue
from items.models import Item, ItemChange
from resilient_site.accounts.actor import Actor
from resilient_site.errors import NotFound

TASK = "find_duplicates"
PAIRS_ON_PAGE = 50


@dataclass(frozen=True)
class Side:
    """One item of a pair; `deletion` is the change that deleted it."""

    id: str
    name: str
    item: Item | None
    deletion: ItemChange | None


@dataclass(frozen=True)
class Pair:
    number: int
    score: float
    field: str
    first: Side
    second: Side

    @property
    def has_both(self) -> bool:
        return self.first.item is not None and self.second.item is not None

    @property
    def sides(self) -> tuple[tuple[str, Side, Side], ...]:
        """Both items, each with its key and the other item."""
        first, second = self.first, self.second
        return ("first", first, second), ("second", second, first)


def get_page(job: Job, number: str | None) -> Page[Pair]:
    """Return the pairs on page `number`, or on the nearest existing page."""
    page = Paginator(_found(job), PAIRS_ON_PAGE).get_page(number)
    ids = {pair[side]["id"] for pair in page for side in ("first", "second")}
    items = Item.objects.for_reading().in_bulk(ids)
    deletions = _deletions(ids - items.keys())

    def side(found: Mapping[str, str]) -> Side:
        item = items.get(found["id"])
        name = item.name if item else found["name"]
        return Side(found["id"], name, item, deletions.get(found["id"]))

    page.object_list = [
        Pair(place, row["score"], row["field"], side(row["first"]), side(row["second"]))
        for place, row in enumerate(page, page.start_index())
    ]
    return page


def _found(job: Job) -> Any:
    has_pairs = job.task == TASK and job.state == Job.State.SUCCEEDED
    return (job.result or {}).get("pairs", []) if has_pairs else []


def _deletions(ids: set[str]) -> dict[str, ItemChange]:
    """Return the last deletion of each of these items."""
    if not ids:
        return {}
    changes = ItemChange.objects.filter(
        item_id__in=ids, action=ItemChange.Action.DELETED
    )
    return {change.item_id: change for change in changes.order_by("version")}


def merge(job: Job, number: int, *, keep: str, actor: Actor) -> Item:
    """Merge a pair into its "first" or its "second" item.

    Raises NotFound if the job has found no such pair, and as `merge_items` does.
    """
    sides = dict(enumerate(_found(job), 1)).get(number)
    if sides is None or keep not in ("first", "second"):
        raise NotFound("The job has found no such pair.")
    drop = "second" if keep == "first" else "first"
    return catalogue.merge_items(
        keep=sides[keep]["id"], drop=sides[drop]["id"], actor=actor
    )
