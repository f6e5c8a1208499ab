"""What one client was told: kept for the day when Django has no answer for him.

Django says with each answer whose it is (`RequestContext.identity`).
"""

import time
from dataclasses import replace

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.edge.cache.cached_response import Copy
from resilient_site.edge.cache.invalidation import Mark, generations, slot_of
from resilient_site.edge.cache.stale_store import stale_store
from resilient_site.edge.request import Incoming
from resilient_site.edge.request_context import Identity
from resilient_site.resilience.cache_control import GROUPS

MAKE_A_DIFFERENCE = (b"host", b"hx-request", b"hx-target")


def is_recognized(request: Incoming) -> bool:
    """Return whether this client was authenticated when Django last answered it."""
    verified = verified_tokens()
    return any(map(verified.is_recognized, request.credentials))


def keep(request: Incoming, identity: Identity, copy: Copy) -> None:
    """Keep a copy for this client alone, until he is no longer the one he was."""
    mark = _mark(copy.mark.at, identity)
    left = int(min(copy.stale_if_error_s, identity.expires_at - time.time()))
    mine = replace(copy, mark=mark, fresh_s=0, stale_if_error_s=left)
    if request.credentials and left > 0:
        stale_store.put(_key(request), mine, is_public=False)


def forget(request: Incoming) -> None:
    """Delete the response that is stored for this client."""
    if request.credentials:
        stale_store.delete(_key(request), is_public=False)


def _mark(at: int, identity: Identity) -> Mark:
    # Not of everything: what he was told is for the day when much has been missed.
    return Mark(at, (slot_of(identity.tag), slot_of(GROUPS)))


async def find(request: Incoming) -> Copy | None:
    """Return what this client was told last; nothing if he has signed out since."""
    if not request.credentials:
        return None
    copy = await stale_store.get(_key(request), is_public=False)
    return copy if copy and generations.is_current(copy.mark) else None


def _key(request: Incoming) -> str:
    told = [request.headers.get(name, b"") for name in MAKE_A_DIFFERENCE]
    return repr((request.credentials, request.path, request.query, told))
