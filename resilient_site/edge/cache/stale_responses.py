"""Stale responses (RFC 5861), sent and marked where the origin fails or rejects."""

from resilient_site.edge.asgi_types import Send
from resilient_site.edge.cache import keys, private_cache
from resilient_site.edge.cache.cached_response import CachedResponse, Headers
from resilient_site.edge.cache.keys import response_cache
from resilient_site.edge.cache.stale_store import stale_store
from resilient_site.edge.request import EdgeRequest

ORIGIN_FAILED = b"origin-failed"


async def send_stale_response(
    request: EdgeRequest, send: Send, extra: Headers, is_overload: bool = False
) -> bool:
    """Send a reader its own stale response, or else the shared one; return whether.

    In an overload at most one of these searches the disk at a time: to do that in vain
    costs more than a rejection.
    """
    if not request.is_safe:
        return False
    response = await private_cache.find(request)
    if response is None or not response.is_usable_if_error():
        in_memory_only = is_overload and stale_store.reads > 0
        response = await _find_shared(request, in_memory_only)
    if response is None or not response.is_usable_if_error():
        return False
    await response.send_stale(request, send, extra, ORIGIN_FAILED)
    return True


def store_shared(key: keys.Key, response: CachedResponse) -> None:
    """Store it in memory, on disk and in Redis, unless a later one is in memory."""
    if response_cache.put(key, response):
        stale_store.put(_as_text(key), response, is_public=True)


def delete_shared(key: keys.Key) -> None:
    response_cache.forget(key)
    stale_store.delete(_as_text(key), is_public=True)


async def find_fresh_in_redis(key: keys.Key) -> CachedResponse | None:
    """Return the response that another process has fetched, if it is fresh."""
    if not redis_lookups.is_due():
        return None
    response = await stale_store.get_from_redis(_as_text(key))
    is_found = (
        response is not None
        and keys.is_fresh(response)
        and keys.may_be_shared(response, key)
        and response_cache.put(key, response)
    )
    redis_lookups.record(is_found)
    return response if is_found else None


class LookupRate:
    """Whether fresh responses are looked up in Redis, by how many are found there.

    Reads that are spread evenly over many items find next to none there, and a look-up
    costs as much as a query. Then only one in SAMPLE_EVERY is made, until they find
    some again.
    """

    SMOOTHING = 1 / 50
    WORTH_IT = 1 / 50
    SAMPLE_EVERY = 16

    def __init__(self) -> None:
        self.found, self._skipped = 1.0, 0

    def is_due(self) -> bool:
        if self.found >= self.WORTH_IT or self._skipped >= self.SAMPLE_EVERY:
            self._skipped = 0
            return True
        self._skipped += 1
        return False

    def record(self, is_found: bool) -> None:
        self.found += (is_found - self.found) * self.SMOOTHING


redis_lookups = LookupRate()


async def _find_shared(
    request: EdgeRequest, in_memory_only: bool
) -> CachedResponse | None:
    key = keys.key_of(request)
    if key is None:
        return None
    response = response_cache.get(key)
    if response is None and not in_memory_only:
        response = await stale_store.get(_as_text(key), is_public=True)
        if response:
            response_cache.put(key, response)  # with its age
    return response


def _as_text(key: keys.Key) -> str:
    return repr(tuple(key))
