"""The policies of rate limiting: how often whom is answered, by what is asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

ANONYMOUS, SIGNED_IN = "anonymous", "signed in"
# A token that no view has accepted yet: anyone can make up any number of those.
UNPROVEN = "unproven token"
ANY_ROUTE = "any"

# What is asked for, who asks, and how many answers there are in how many seconds.
type Row = tuple[str, str, int, int]
type Table = Mapping[str, Row]

OFF = "off"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ENTRY = re.compile(r"([a-z-]+)=(\d{1,9})/([smhd])")


@dataclass(frozen=True)
class Policy:
    name: str
    quota: int
    window_s: int


class Policies:
    """Finds the policy for a request; the most particular one holds."""

    def __init__(self, table: Table) -> None:
        self._policies = {
            (route, who): Policy(name, quota, window_s)
            for name, (route, who, quota, window_s) in table.items()
        }

    def find(self, route: str, otherwise: str, who: str) -> Policy | None:
        for candidate in (route, otherwise, ANY_ROUTE):
            if policy := self._policies.get((candidate, who)):
                return policy
        return None


def overridden(table: Table, text: str) -> Table:
    """Return the table as `text` has it: `off`, or entries such as `write=600/m`."""
    if text.strip() == OFF:
        return {}
    changed = dict(table)
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = ENTRY.fullmatch(entry)
        if match is None or match[1] not in table:
            raise ImproperlyConfigured(
                f"RATE_LIMITS: {entry!r} is not off, nor a number by second, minute, "
                f"hour or day (write=600/m) for one of {', '.join(table)}."
            )
        route, who, _, _ = table[match[1]]
        changed[match[1]] = route, who, int(match[2]), SECONDS[match[3]]
    return changed
