from typing import Any

from django.core.management.base import BaseCommand

from items import sample


class Command(BaseCommand):
    help = "Load the sample catalogue: the ISO standards. Idempotent."

    def handle(self, *args: Any, **options: Any) -> None:
        counts = sample.load()
        self.stdout.write(
            f"Sample catalogue: {counts.created:,} items created, "
            f"{counts.updated:,} updated, {counts.unchanged:,} unchanged."
        )
