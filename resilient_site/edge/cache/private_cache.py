"""Private cache: the last responses to one client, sent stale where Django fails.

Django names with each response whose it is (`RequestContext.identity`). An entry ends
with the session or token, and with any change of the user or of a group.
"""

import time
from dataclasses import replace

from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import Mark, invalidations, slot_of
from resilient_site.edge.cache.keys import private_key_of
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import EdgeRequest, Identity
from resilient_site.resilience.cache_control import GROUPS, user_tag


def keep(request: EdgeRequest, identity: Identity, copy: CachedResponse) -> None:
    """Store the response for this client alone, until its identity changes."""
    # Not of EVERYTHING: it is for an outage, when changes may have been missed.
    mark = Mark(copy.mark.at, (slot_of(user_tag(identity.user_id)), slot_of(GROUPS)))
    left = int(min(copy.stale_if_error_s, identity.expires_at - time.time()))
    key = private_key_of(request)
    if key and left > 0:
        mine = replace(copy, mark=mark, fresh_s=0, stale_if_error_s=left)
        response_store.put(key, mine)


def forget(request: EdgeRequest) -> None:
    """Delete the response that is stored for this client."""
    if key := private_key_of(request):
        response_store.delete(key)


async def find(request: EdgeRequest) -> CachedResponse | None:
    """Return the last response to this client; None if it has signed out since."""
    key = private_key_of(request)
    copy = await response_store.find_stale(key) if key else None
    return copy if copy and invalidations.is_current(copy.mark) else None
