from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from resilient_site.operations.backup import BackupFailed, restore
from resilient_site.operations.epoch import renew_epoch


class Command(BaseCommand):
    help = (
        "Replace everything in the database by the content of a backup. "
        "Stop the site first."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--yes", action="store_true", help="the database may be overwritten"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["yes"]:
            raise CommandError("This overwrites the database. To go on, add --yes.")
        if not options["file"].is_file():
            raise CommandError(f"There is no file {options['file']}.")
        try:
            restore(options["file"])
        except BackupFailed as error:
            raise CommandError(str(error)) from error
        connection.close()
        # The backup may be of an earlier version of the site.
        call_command("migrate", verbosity=0)
        renew_epoch()
        self.stdout.write(
            "Restored. Nothing that was cached is shown again, and followers of the "
            "change feed have to start over."
        )
