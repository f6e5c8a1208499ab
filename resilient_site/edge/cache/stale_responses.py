"""The last answers that are known, for want of new ones."""

from resilient_site.edge.cache import keys, private_cache
from resilient_site.edge.cache.cached_response import Copy, Headers
from resilient_site.edge.cache.stores import copies, distant, last_known
from resilient_site.edge.request import Incoming
from resilient_site.edge.streaming import Send

ORIGIN_FAILED = b"origin-failed"


async def send_last_known(
    request: Incoming, send: Send, extra: Headers, is_rush: bool = False
) -> bool:
    """Answer a reader with what he was told last, or else everybody was; tell if so.

    In a rush, a look at the disk in vain costs more than it is worth.
    """
    if not request.is_safe:
        return False
    if is_rush and request.is_anonymous:
        key = keys.key_of(request)
        if key is None or not may_find_shared(key):
            return False
    copy = await private_cache.find(request)
    if copy is None or not copy.is_for_want_of_better():
        copy = await _find_shared(request)
    if copy is None or not copy.is_for_want_of_better():
        return False
    await copy.send_stale(request, send, extra, ORIGIN_FAILED)
    return True


def keep_shared(key: keys.Key, copy: Copy) -> None:
    """Keep it in memory, on the disk and in Redis, unless a later one is known."""
    if copies.put(key, copy):
        last_known.keep(_as_text(key), copy)
        distant.keep(_as_text(key), copy)


def forget_shared(key: keys.Key) -> None:
    copies.forget(key)
    last_known.forget(_as_text(key))
    distant.forget(_as_text(key))


def may_find_shared(key: keys.Key) -> bool:
    """Tell at once whether there may be an answer that is known."""
    return copies.get(key) is not None or last_known.may_have(_as_text(key))


async def _find_shared(request: Incoming) -> Copy | None:
    key = keys.key_of(request)
    if key is None:
        return None
    text = _as_text(key)
    copy = copies.get(key) or await last_known.get(text) or await distant.get(text)
    if copy:
        copies.put(key, copy)  # as old as it is
    return copy


def _as_text(key: keys.Key) -> str:
    return repr(tuple(key))
