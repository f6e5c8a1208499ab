"""The shared cache of this process (RFC 9111), and the keys of its responses.

It is bounded by bytes. New responses share a small part of it until they are requested
for a second time, so that a crawler or a flood of odd searches evicts nothing else.
"""

import re
from collections import OrderedDict
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from django.conf import settings

from resilient_site.edge.cache import invalidation_pubsub
from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import invalidations
from resilient_site.edge.policy import Shared, policy_at
from resilient_site.edge.request import EdgeRequest

PROBATION_SHARE = 0.2
# Longer ones are for Django alone: they would take more room than the response.
VARYING_MAX = 1024
# Requests with credentials are kept apart by other means.
CREDENTIAL_HEADERS = {b"authorization", b"cookie"}


# What needs no decoding, as most queries do: that takes longer than all the rest.
_is_plain = re.compile(
    rb"(?:[\w.~-]+=[\w.~-]*(?:&(?!\Z)|\Z)){1,20}", re.ASCII
).fullmatch

type Varying = tuple[tuple[bytes, bytes], ...]


class Key(NamedTuple):
    """Key of a shared response."""

    host: bytes
    scheme: str
    path: str
    query: str
    headers: Varying


def key_of(request: EdgeRequest) -> Key | None:
    """Return the key; None if the response to this request is not shared."""
    shared = policy_at(request.path, "GET").shared
    if shared is None:
        return None
    query = query_of(request.query, shared) if request.query else ""
    host = request.headers.get(b"host", b"")
    varying = _varying(request, shared.headers) if shared.headers else ()
    if query is None or varying is None or len(query) + len(host) > VARYING_MAX:
        return None
    scheme = request.scope.get("scheme", "http")
    return Key(host, scheme, request.path, query, varying)


def _varying(request: EdgeRequest, names: tuple[bytes, ...]) -> Varying | None:
    """Return these headers of the request; None if they are too long."""
    varying = tuple((name, request.headers.get(name, b"")) for name in names)
    return varying if sum(len(value) for _, value in varying) <= VARYING_MAX else None


def may_be_shared(copy: CachedResponse, key: Key) -> bool:
    """Return whether it is the same for all requests with this key."""
    differs_by = copy.vary - CREDENTIAL_HEADERS
    return bool(copy.fresh_s) and differs_by <= {name for name, _ in key.headers}


def query_of(query: bytes, shared: Shared) -> str | None:
    """Return the parameters that count, in one order; None if they are too many."""
    if not shared.parameters:
        return ""
    if _is_plain(query):
        plain = [pair.partition("=") for pair in query.decode().split("&")]
        named = [pair for pair in plain if pair[0] in shared.parameters]
        return "&".join("".join(pair) for pair in sorted(named, key=itemgetter(0)))
    try:
        pairs = parse_qsl(
            query.decode("latin-1"),
            keep_blank_values=True,
            max_num_fields=settings.DATA_UPLOAD_MAX_NUMBER_FIELDS,
        )
    except ValueError:
        return None
    # Stable: of several values of one parameter the order may count.
    counting = sorted(
        (pair for pair in pairs if pair[0] in shared.parameters), key=lambda p: p[0]
    )
    return urlencode(counting)


class ResponseCache:
    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._probation: OrderedDict[Key, CachedResponse] = OrderedDict()
        self._proven: OrderedDict[Key, CachedResponse] = OrderedDict()
        self._probation_bytes = 0

    def __len__(self) -> int:
        return len(self._probation) + len(self._proven)

    def get(self, key: Key) -> CachedResponse | None:
        if copy := self._proven.get(key):
            self._proven.move_to_end(key)
            return copy
        if copy := self._probation.pop(key, None):
            self._probation_bytes -= copy.size
            self._proven[key] = copy
        return copy

    def put(self, key: Key, copy: CachedResponse) -> bool:
        """Store it unless a later one is stored; return whether it is the latest."""
        known = self._proven.get(key) or self._probation.get(key)
        if known and known.mark.at > copy.mark.at:
            return False
        if copy.size > PROBATION_SHARE * self.max_bytes:
            self.forget(key)
            return True
        if key in self._proven:
            self.bytes += copy.size - self._proven[key].size
            self._proven[key] = copy
        else:
            self.forget(key)
            self._probation[key] = copy
            self._probation_bytes += copy.size
            self.bytes += copy.size
        self._make_room()
        return True

    def forget(self, key: Key) -> None:
        if old := self._probation.pop(key, None):
            self._probation_bytes -= old.size
        else:
            old = self._proven.pop(key, None)
        if old:
            self.bytes -= old.size

    def _make_room(self) -> None:
        while self.bytes > self.max_bytes:
            on_probation = self._probation_bytes > PROBATION_SHARE * self.max_bytes
            if self._probation and (on_probation or not self._proven):
                _, copy = self._probation.popitem(last=False)
                self._probation_bytes -= copy.size
            else:
                _, copy = self._proven.popitem(last=False)
            self.bytes -= copy.size


def is_fresh(copy: CachedResponse) -> bool:
    return copy.age < copy.fresh_s and invalidations.is_current(copy.mark)


def is_usable_while_revalidating(copy: CachedResponse) -> bool:
    """Return whether it is usable while it is fetched anew (RFC 5861, section 3).

    Not if it is known to be outdated, as a change is seen at once; nor where the change
    of another machine may have been missed.
    """
    limit = copy.fresh_s + copy.stale_while_revalidate_s
    return (
        copy.age < limit
        and invalidations.is_current(copy.mark)
        and invalidation_pubsub.receives_all_invalidations()
    )


response_cache = ResponseCache(settings.READ_CACHE_BYTES)
