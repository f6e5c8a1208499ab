"""Plain functions that make what tests are about."""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import Permission, User
from django.db.models import QuerySet

from items import catalogue, fields, integrity
from items.bulk import staging
from items.models import Item, ItemChange
from resilient_site.accounts.actor import Actor

TESTER = Actor(None, "tester")


def allow(user: User, *codenames: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))


def make_item(**overrides: Any) -> Item:
    data = {"name": "Brass bolt", "description": "M8, 40 mm", "tags": ["metal"]}
    return catalogue.create_item(fields.clean(data | overrides), actor=TESTER)


def make_items(number: int, **overrides: Any) -> list[Item]:
    rows = [
        fields.clean({"id": f"item-{n:05}", "name": f"Item {n:05}"} | overrides)
        for n in range(number)
    ]
    return create_items(rows)


def create_items(rows: list[fields.ItemData]) -> list[Item]:
    """Create items of cleaned rows at once, in their order."""
    staged = [integrity.place(row) for row in rows]
    counts = staging.apply(staged, actor=TESTER)
    assert counts.created == len(rows), counts.errors
    items = Item.objects.for_reading().in_bulk([row["id"] for row in staged])
    return [items[row["id"]] for row in staged]


def change_items(numbers: Iterable[int]) -> None:
    """Create, change and delete 40 items, one change for each number."""
    for number in numbers:
        item, name = f"item-{number % 40}", f"n{number}"
        try:
            if number % 7 == 3:
                catalogue.delete_item(item, actor=TESTER)
            else:
                catalogue.update_item(item, {"name": name}, actor=TESTER)
        except catalogue.ItemNotFound:
            make_item(id=item, name=name)


def changes_of(item_id: str) -> QuerySet[ItemChange]:
    """Return the changes of an item, the latest first."""
    return ItemChange.objects.filter(item_id=item_id).order_by("-version")
