"""What one client was told: kept for the day when Django has no answer for him.

Django says with each answer whose it is (`Exchange.identity`). From that the edge
knows for a while who is behind a token or a session, and lets those in first.
"""

import time
from dataclasses import replace

from resilient_site.edge.cache.cached_response import Copy
from resilient_site.edge.cache.invalidation import Mark, generations, slot_of
from resilient_site.edge.cache.stores import last_known
from resilient_site.edge.request import Incoming
from resilient_site.edge.streaming import Identity
from resilient_site.resilience.bounded_dict import Latest
from resilient_site.resilience.cache_control import GROUPS

KNOWN_MAX = 10_000
# For so long one who was recognised is known.
KNOWN_S = 3600.0
MAKE_A_DIFFERENCE = (b"host", b"hx-request", b"hx-target")

known = Latest[str, tuple[float, Mark, float]](KNOWN_MAX, "Clients known")


def is_familiar(request: Incoming, within_s: float = KNOWN_S) -> bool:
    """Tell whether Django recognised this client when it answered him last.

    Enough to let him in first: what has changed about him since Django sees itself.
    In a rush he would not get there to be recognised again.
    """
    entry = known.get(request.credential or "")
    if entry is None:
        return False
    seen, _, expires_at = entry
    return time.monotonic() - seen < within_s and time.time() < expires_at


def is_known(request: Incoming, within_s: float) -> bool:
    """Tell whether that is so, and nothing about him has changed since."""
    entry = known.get(request.credential or "")
    return (
        entry is not None
        and is_familiar(request, within_s)
        and generations.is_current(entry[1])
    )


def remember(request: Incoming, identity: Identity, at: int) -> None:
    """Note who this was when Django answered him, as of the moment `at`."""
    credential = request.credential
    if credential is None:
        return
    mark = _mark(at, identity)
    known[credential] = time.monotonic(), mark, identity.expires_at


def keep(request: Incoming, identity: Identity, copy: Copy) -> None:
    """Keep a copy for this client alone, until he is no longer the one he was."""
    mark = _mark(copy.mark.at, identity)
    left = int(min(copy.stale_if_error_s, identity.expires_at - time.time()))
    mine = replace(copy, mark=mark, fresh_s=0, stale_if_error_s=left)
    if request.credential and left > 0:
        last_known.keep(_key(request), mine)


def forget(request: Incoming, status: int) -> None:
    """Forget what this client was told here: now he is told `status`."""
    if request.credential:
        last_known.forget(_key(request))
        if status == 401:
            known.pop(request.credential, None)


def _mark(at: int, identity: Identity) -> Mark:
    # Not of everything: what he was told is for the day when much has been missed.
    return Mark(at, (slot_of(identity.tag), slot_of(GROUPS)))


async def find(request: Incoming) -> Copy | None:
    """Return what this client was told last; nothing if he has signed out since."""
    if not request.credential:
        return None
    copy = await last_known.get(_key(request))
    return copy if copy and generations.is_current(copy.mark) else None


def _key(request: Incoming) -> str:
    told = [request.headers.get(name, b"") for name in MAKE_A_DIFFERENCE]
    return repr((request.credential, request.path, request.query, told))
