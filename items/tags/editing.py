"""Writing to tags: REST, the admin and the task call these functions.

A tag comes to be with the first item that has it. Another name, also one that another
tag has, is an edit of each item: see `catalogue.retag_items`. Many are edited by a job.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet
from django.utils import timezone

from items import catalogue, rules
from items.models import ItemTag, Tag
from resilient_site.accounts.actor import Actor
from resilient_site.api.members import clean_members
from resilient_site.edge.cache.invalidation import invalidate
from resilient_site.errors import Conflict, Invalid, NotFound
from resilient_site.resilience.transactions import atomic_with_retries

# Cache tag of all that shows tags themselves.
TAGS = "tags"
# More items than this are edited by a job.
ITEMS_AT_ONCE = 1_000
READ_ONLY = ("version", "updated_at", "item_count", "has_more_items")

# Called with the tag when it is locked; raises PreconditionFailed.
type Precondition = Callable[[Tag], None]
type Data = dict[str, str]


class TagNotFound(NotFound):
    code = "tag_not_found"
    detail = "Tag not found"


class TagExists(Conflict):
    code = "tag_exists"
    detail = "There is a tag of this name already. To make one of both, merge them."


class TagInUse(Conflict):
    code = "tag_in_use"
    detail = "Items have this tag. Only one that no item has can be deleted."


class TagNeedsJob(Conflict):
    code = "tag_needs_job"
    detail = (
        f"More than {ITEMS_AT_ONCE:,} items have this tag: submit a job of the task "
        "replace_tag with the tag, and the one to take its place."
    )


_CLEANERS: dict[str, Callable[[Any], str]] = {
    "name": rules.clean_tag,
    "description": partial(
        rules.clean_line, max_length=rules.TAG_DESCRIPTION_MAX, required=False
    ),
    "into": rules.clean_tag,
}


def clean(raw: Any, *names: str, ignores_unknown: bool = False) -> Data:
    """Return those of the names that `raw` has cleaned; raise Invalid."""
    return clean_members(
        raw,
        {name: _CLEANERS[name] for name in names},
        what="The body",
        required={"into"},
        known=None if ignores_unknown else {*names, *READ_ONLY},
    )


def get_tag(name: str) -> Tag:
    """Raise TagNotFound if there is none."""
    return _get(Tag.objects.all(), name)


@atomic_with_retries
def create_tag(name: str, description: str = "") -> Tag:
    """Create a tag that no item has yet."""
    tag, is_new = Tag.objects.get_or_create(
        name=name, defaults={"description": description}
    )
    if not is_new:
        raise TagExists
    invalidate(TAGS)
    return tag


@atomic_with_retries
def change_tag(
    name: str, changes: Data, *, actor: Actor, precondition: Precondition | None = None
) -> Tag:
    """Change the description, or the name in all items, or both.

    Raises TagNotFound, TagExists, TagNeedsJob, and what `precondition` raises.
    """
    tag = _lock(name, precondition)
    into = changes.get("name", tag.name)
    if into != tag.name:
        if Tag.objects.filter(name=into).exists():
            raise TagExists
        tag = _move(tag, into, actor)
    return _describe(tag, changes.get("description", tag.description))


@atomic_with_retries
def merge_tag(
    name: str, into: str, *, actor: Actor, precondition: Precondition | None = None
) -> Tag:
    """Give another tag to all items in place of this one, which is deleted.

    Raises TagNotFound, TagNeedsJob, Invalid, and what `precondition` raises.
    """
    tag = _lock(name, precondition)
    if into == tag.name:
        raise Invalid(errors={"into": ["A tag cannot be merged with itself."]})
    if not Tag.objects.filter(name=into).exists():
        raise Invalid(errors={"into": [f"There is no tag “{into}”."]})
    return _move(tag, into, actor)


@atomic_with_retries
def delete_tag(name: str, *, precondition: Precondition | None = None) -> None:
    """Raise TagInUse if an item has it."""
    tag = _lock(name, precondition)
    if ItemTag.objects.filter(tag=tag).exists():
        raise TagInUse
    tag.delete()
    invalidate(TAGS)


def replace_tag(
    name: str,
    into: str,
    *,
    actor: Actor,
    batch_id: UUID,
    on_batch: Callable[[int], None],
) -> None:
    """Rename or merge a tag of many items, each thousand in a transaction of its own.

    What is interrupted is done again; without the tag there is nothing to do.
    """
    while number := catalogue.retag_items(name, into, actor=actor, batch_id=batch_id):
        on_batch(number)
    _end(name, into, actor, batch_id)


def _get(rows: QuerySet[Tag], name: str) -> Tag:
    try:
        return rows.get(name=rules.clean_tag(name))
    except (ValueError, Tag.DoesNotExist) as error:
        raise TagNotFound from error


def _lock(name: str, precondition: Precondition | None) -> Tag:
    # Without the key: others may go on giving it to items.
    tag = _get(Tag.objects.select_for_update(no_key=True), name)
    if precondition:
        precondition(tag)
    return tag


def needs_job(tag: Tag) -> bool:
    """Return whether it has too many items to be renamed at once."""
    items = ItemTag.objects.filter(tag=tag)
    return items[ITEMS_AT_ONCE : ITEMS_AT_ONCE + 1].exists()


def _move(tag: Tag, into: str, actor: Actor) -> Tag:
    if needs_job(tag):
        raise TagNeedsJob
    return _end(tag.name, into, actor)


@atomic_with_retries
def _end(name: str, into: str, actor: Actor, batch_id: UUID | None = None) -> Tag:
    """Delete the tag, of which `into` takes over the items and the description."""
    while catalogue.retag_items(name, into, actor=actor, batch_id=batch_id):
        pass
    tag, _ = Tag.objects.get_or_create(name=into)
    for old in Tag.objects.filter(name=name):
        tag = _describe(tag, tag.description or old.description)
        old.delete()  # raises ProtectedError if an item has it again: starts anew
    invalidate(TAGS)
    return tag


def _describe(tag: Tag, description: str) -> Tag:
    if description != tag.description:
        Tag.objects.filter(pk=tag.pk).update(
            description=description, version=F("version") + 1, updated_at=timezone.now()
        )
        tag.refresh_from_db()
        invalidate(TAGS)
    return tag
