import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from resilient_site.operations.doctor import (
    Finding,
    Level,
    repair_sequences,
    run_all,
)
from resilient_site.operations.epoch import renew_epoch

STYLES = {Level.OK: "SUCCESS", Level.WARNING: "WARNING", Level.FAILURE: "ERROR"}


class Command(BaseCommand):
    help = (
        "Check services, settings and limits, and say what to do. "
        "The exit code is 1 if a check fails."
    )
    requires_system_checks = []  # they are among the checks

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="one JSON object a line"
        )
        parser.add_argument(
            "--new-epoch",
            action="store_true",
            help="after a dump was put back by hand and migrated: repair sequences, "
            "void all caches, and have followers of the changes start over",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["new_epoch"]:
            repair_sequences()
            renew_epoch()
            self.stdout.write("The database has a new epoch.")
        levels = set()
        for name, finding in run_all():
            levels.add(finding.level)
            self._write(name, finding, options["json"])
        if Level.FAILURE in levels:
            raise SystemExit(1)

    def _write(self, name: str, finding: Finding, as_json: bool) -> None:
        if as_json:
            row = {"name": name, "level": finding.level, "what": finding.what}
            self.stdout.write(json.dumps(row | {"todo": finding.todo}))
            return
        style = getattr(self.style, STYLES[finding.level])
        self.stdout.write(f"{style(f'{finding.level:8}')} {name:9} {finding.what}")
        if finding.todo:
            self.stdout.write(f"{'':18} → {finding.todo}")
