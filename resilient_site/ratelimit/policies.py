"""Rate-limit policies: how many requests of a class a client may make in a window."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

ANONYMOUS, AUTHENTICATED = "anonymous", "authenticated"
# A token that was not verified yet: anyone can make up any number of those.
UNVERIFIED = "unverified token"
ANY_CLASS = "any"
# Failed sign-ins with one name, which no class of requests counts.
FAILED_SIGN_IN, NAME = "failed-sign-in", "name"

# Class of requests, kind of client, quota, and window in seconds.
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


def override_policies(table: Table, text: str) -> Table:
    """Return the table with the changes in `text`: `off`, or such as `write=600/m`."""
    if text.strip() == OFF:
        return {}
    changed = dict(table)
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = ENTRY.fullmatch(entry)
        if match is None or match[1] not in table:
            raise ImproperlyConfigured(
                f"RATE_LIMITS: {entry!r} is neither off nor a policy with a number per "
                "second, minute, hour or day, such as write=600/m. The policies are: "
                f"{', '.join(table)}."
            )
        rate_class, client, _, _ = table[match[1]]
        changed[match[1]] = rate_class, client, int(match[2]), SECONDS[match[3]]
    return changed
