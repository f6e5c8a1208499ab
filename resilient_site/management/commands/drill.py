"""Break what the site stands on, under load, and see what its clients are told."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

try:
    from tests.drill import command
except ImportError as error:  # an installation without the sources of its tests
    command = None
    missing = str(error)


class Command(BaseCommand):
    help = (
        "Start a site of its own as in production, put load on it, break one thing "
        "after another, and compare every answer with what has to be. Exits with 1 if "
        "an objective of deploy/objectives.toml is missed."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        if command is None:
            raise CommandError(f"It needs what `make drill` installs: {missing}.")
        command.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            kept = command.drill(options, self._say)
        except (ValueError, OSError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(130)
        sys.exit(0 if kept else 1)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
