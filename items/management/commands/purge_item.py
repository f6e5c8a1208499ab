from typing import Any

from django.core.cache import caches
from django.core.management.base import BaseCommand, CommandError, CommandParser

from items import catalogue
from items.models import Item, ItemChange
from resilient_site.accounts.actor import Actor
from resilient_site.errors import SiteError


class Command(BaseCommand):
    help = (
        "Remove the contents of items for good: from the catalogue, the change log, "
        "the feed, events that are not sent yet, and all caches. That they were "
        "changed and purged remains. This cannot be undone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id", nargs="+", help="the id of an item, which may be deleted"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for item_id in options["id"]:
            is_known = Item.objects.filter(pk=item_id).exists()
            if not is_known and not ItemChange.objects.filter(item_id=item_id).exists():
                raise CommandError(f"There never was an item {item_id!r}.")
        try:
            number = catalogue.purge_items(
                options["id"], actor=Actor(None, "purge_item")
            )
        except SiteError as error:
            raise CommandError(error.detail) from error
        self.stdout.write(f"Items purged: {number}. All caches are void.")
        shared: Any = caches["default"]
        if shared.is_shared:
            shared.ping()
            if shared.is_degraded:
                self.stdout.write(
                    "Redis does not answer. What it holds is not shown any more, and "
                    "expires within a day; run this again to delete it at once."
                )
        self.stdout.write("The contents may still be in:")
        for place in catalogue.NOT_PURGED:
            self.stdout.write(f"- {place}")
