from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand

from resilient_site.operations.clean_up import clean_up


class Command(BaseCommand):
    help = (
        "Delete expired rows (tokens, sessions, responses, jobs), renew outdated ones."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        deleted = Counter(clean_up())
        while any((more := clean_up()).values()):
            deleted.update(more)
        for what, number in deleted.items():
            self.stdout.write(f"{what}: {number}")
