"""Private cache: the last responses to one client, sent stale where Django fails.

Django names with each response whose it is (`RequestContext.identity`). An entry ends
with the session or token, and with any change of the user or of a group.
"""

import time
from dataclasses import replace

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import Mark, invalidations, slot_of
from resilient_site.edge.cache.stale_store import stale_store
from resilient_site.edge.request import EdgeRequest
from resilient_site.edge.request_context import Identity
from resilient_site.resilience.cache_control import GROUPS

VARYING_HEADERS = (b"host", b"hx-request", b"hx-target")


def is_recognized(request: EdgeRequest) -> bool:
    """Return whether this client was authenticated when Django last answered it."""
    verified = verified_tokens()
    return any(map(verified.is_recognized, request.credentials))


def keep(request: EdgeRequest, identity: Identity, copy: CachedResponse) -> None:
    """Store the response for this client alone, until its identity changes."""
    mark = _mark(copy.mark.at, identity)
    left = int(min(copy.stale_if_error_s, identity.expires_at - time.time()))
    mine = replace(copy, mark=mark, fresh_s=0, stale_if_error_s=left)
    if request.credentials and left > 0:
        stale_store.put(_key(request), mine, is_public=False)


def forget(request: EdgeRequest) -> None:
    """Delete the response that is stored for this client."""
    if request.credentials:
        stale_store.delete(_key(request), is_public=False)


def _mark(at: int, identity: Identity) -> Mark:
    # Not of EVERYTHING: these are for an outage, when changes may have been missed.
    return Mark(at, (slot_of(identity.tag), slot_of(GROUPS)))


async def find(request: EdgeRequest) -> CachedResponse | None:
    """Return the last response to this client; None if it has signed out since."""
    if not request.credentials:
        return None
    copy = await stale_store.get(_key(request), is_public=False)
    return copy if copy and invalidations.is_current(copy.mark) else None


def _key(request: EdgeRequest) -> str:
    varying = [request.headers.get(name, b"") for name in VARYING_HEADERS]
    return repr((request.credentials, request.path, request.query, varying))
