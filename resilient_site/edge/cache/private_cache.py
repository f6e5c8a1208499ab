"""Private cache: the last responses to one client, sent stale where Django fails.

Django names with each response whose it is (`RequestContext.identity`). An entry ends
with the session or token, with any change of the user or of a group, and when a change
may have been missed: when a process starts, and while other machines cannot be heard.
What another machine has sent, which is in Redis, is for clients that this process has
found valid itself lately: it watches their accounts (`accounts.watch`).
"""

import time
from dataclasses import replace

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import (
    Mark,
    invalidate_now,
    invalidations,
    receives_all_invalidations,
    slot_of,
)
from resilient_site.edge.cache.keys import private_key_of
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import EdgeRequest, Identity
from resilient_site.resilience.cache_control import (
    FRESH_S,
    PRIVATE,
    credential_tag,
    personal_tags,
)


def keep(request: EdgeRequest, identity: Identity, copy: CachedResponse) -> None:
    """Store the response for this client alone, until its identity changes."""
    # Not of EVERYTHING: what a page shows may be outdated in an outage.
    tags = [PRIVATE, *personal_tags(identity.user_id, request.credentials)]
    mark = Mark(copy.mark.at, tuple(map(slot_of, tags)))
    left = int(min(copy.stale_if_error_s, identity.expires_at - time.time()))
    key = private_key_of(request)
    if key and left > 0:
        mine = replace(copy, mark=mark, fresh_s=0, stale_if_error_s=left)
        response_store.put(key, mine)


def void(request: EdgeRequest) -> None:
    """End all that was stored for these credentials, on all machines.

    They are not valid: their next user may be someone else.
    """
    if tags := [credential_tag(digest) for digest in request.credentials]:
        invalidate_now(*tags)


def forget(request: EdgeRequest) -> None:
    """Delete the response that is stored for this client."""
    if key := private_key_of(request):
        response_store.delete(key)


async def find(request: EdgeRequest, *, in_redis: bool = True) -> CachedResponse | None:
    """Return the last response to this client; None if it has signed out since."""
    key = private_key_of(request)
    if key is None:
        return None
    is_known = all(map(verified_tokens().is_recognized, request.credentials))
    copy = await response_store.find_stale(key, in_redis=is_known and in_redis)
    if copy is None or not invalidations.is_current(copy.mark):
        return None
    is_heard = receives_all_invalidations() or copy.age < FRESH_S
    return copy if is_heard else None
