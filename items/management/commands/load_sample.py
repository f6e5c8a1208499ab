from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from items import sample
from items.sample_collections import COLLECTIONS


class Command(BaseCommand):
    help = "Load the sample catalogue: the ISO standards. Idempotent."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "collections", nargs="*", metavar="COLLECTION",
            help=f"those to load, else all: {', '.join(COLLECTIONS)}",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        keys = options["collections"] or list(COLLECTIONS)
        if unknown := set(keys) - COLLECTIONS.keys():
            raise CommandError(f"The sample has no {', '.join(sorted(unknown))}.")
        counts = sample.load(keys)
        self.stdout.write(
            f"Sample catalogue: {counts.created:,} items created, "
            f"{counts.updated:,} updated, {counts.unchanged:,} unchanged."
        )
        for item_id, reason in counts.rejected.items():
            self.stderr.write(f"{item_id} was left out: {reason}")
