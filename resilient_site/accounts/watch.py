"""Watch of the people and sessions that this process has found valid.

Signals name most changes, and Redis carries them to other machines. The database is
asked as well, every few seconds, as there are changes without a signal
(`QuerySet.update`, SQL) and machines that cannot reach Redis: what has gone there
invalidates what was stored.
"""

import logging
import time
from collections.abc import Collection, Iterable
from itertools import batched
from threading import Event, Thread
from typing import Any

from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.db import close_old_connections, connection
from django.utils import timezone

from resilient_site.accounts.verified_tokens import (
    VerifiedTokens,
    session_digest,
    verified_tokens,
)
from resilient_site.edge.cache.invalidation import invalidate_now, invalidations
from resilient_site.models import ApiToken
from resilient_site.resilience import deadlines
from resilient_site.resilience.cache_control import FRESH_S, credential_tag, user_tag

logger = logging.getLogger(__name__)

PERIOD_S = 3.0
# Of one look at all of them. A loss is noticed within `FRESH_S`, however long it takes.
TIMEOUT_S = 5.0
PERIOD_MAX_S = FRESH_S - TIMEOUT_S
BATCH = 1_000


class AccountWatch:
    def __init__(self, register: VerifiedTokens) -> None:
        self._register = register
        # Of each person, hashes of the rows that their rights rest on.
        self._known: dict[Any, set[int]] = {}
        self._stopping = Event()

    def start(self) -> None:
        self._stopping.clear()
        Thread(target=self._run, name="account-watch", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def poll(self) -> None:
        """Invalidate what was stored for those who have lost something since."""
        people, session_keys = self._register.people_and_sessions()
        if lost := self._find_losers(people):
            invalidate_now(*map(user_tag, lost))
        for keys in batched(session_keys, BATCH):
            live = Session.objects.filter(
                session_key__in=keys, expire_date__gt=timezone.now()
            )
            for key in set(keys).difference(live.values_list("pk", flat=True)):
                invalidate_now(credential_tag(session_digest(key)))
                self._register.forget_session(key)

    def _find_losers(self, people: Iterable[Any]) -> list[Any]:
        found: dict[Any, set[int]] = {}
        for ids in batched(people, BATCH):
            found |= _rows_of(ids)
        before, self._known = self._known, found
        # Those whom others have pushed out of the register are watched no longer: what
        # is kept for them, which is on this machine alone, could outlast a loss.
        if forgotten := before.keys() - found.keys():
            invalidations.record(map(user_tag, forgotten))
        return [pk for pk, rows in found.items() if _has_lost(before.get(pk), rows)]

    def _run(self) -> None:
        pause_s = PERIOD_S
        while not self._stopping.wait(pause_s):
            began = time.monotonic()
            try:
                close_old_connections()
                with deadlines.within(TIMEOUT_S):
                    self.poll()
            except Exception as error:  # noqa: BLE001 - the next time may do better
                logger.debug("Accounts cannot be watched: %s", error)
                connection.close()
            # With very many people it is to take a tenth of the time.
            took_s = time.monotonic() - began
            pause_s = min(max(PERIOD_S, 10 * took_s), PERIOD_MAX_S)
        connection.close()


def _has_lost(before: set[int] | None, now: set[int]) -> bool:
    # Without a row they were gone before the first look.
    return not now if before is None else bool(before - now)


def _rows_of(ids: Collection[Any]) -> dict[Any, set[int]]:
    """Return, by person, hashes of all that their rights rest on."""
    active = User.objects.filter(pk__in=ids, is_active=True)
    people = list(active.values_list("pk", "password", "is_superuser", "is_staff"))
    live = [pk for pk, *_ in people]
    rows = (
        people,
        active.values_list("pk", "user_permissions"),
        Group.objects.filter(user__in=live).values_list("user", "pk", "permissions"),
        ApiToken.objects.filter(user__in=live).values_list("user", "pk", "expiry"),
    )
    found: dict[Any, set[int]] = {pk: set() for pk in ids}
    for kind, of_kind in enumerate(rows):
        for row in of_kind:
            found[row[0]].add(hash((kind, *row)))
    return found


account_watch = AccountWatch(verified_tokens())
