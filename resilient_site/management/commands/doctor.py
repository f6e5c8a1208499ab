import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from resilient_site.operations.doctor import Finding, Level, examine_all

STYLES = {Level.OK: "SUCCESS", Level.WARNING: "WARNING", Level.FAILURE: "ERROR"}


class Command(BaseCommand):
    help = (
        "Say what is reachable, what is set up badly and what is at its limit. "
        "Ends with 1 if something has failed."
    )
    requires_system_checks = []  # they are among the findings

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        levels = set()
        for name, finding in examine_all():
            levels.add(finding.level)
            self._tell(name, finding, options["json"])
        if Level.FAILURE in levels:
            raise SystemExit(1)

    def _tell(self, name: str, finding: Finding, as_json: bool) -> None:
        if as_json:
            told = {"name": name, "level": finding.level, "what": finding.what}
            self.stdout.write(json.dumps(told | {"todo": finding.todo}))
            return
        style = getattr(self.style, STYLES[finding.level])
        self.stdout.write(f"{style(f'{finding.level:8}')} {name:9} {finding.what}")
        if finding.todo:
            self.stdout.write(f"{'':18} → {finding.todo}")
