"""The copies that this process keeps in memory, and the way to each of them.

A shared cache in the sense of RFC 9111, for answers whose views call them shared. It
is bounded by bytes, and new copies have a small part of it until they are asked for a
second time, so that a crawler or a flood of odd searches pushes nothing out.
"""

import re
from collections import OrderedDict
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from django.conf import settings

from resilient_site.edge.cache import invalidation_pubsub
from resilient_site.edge.cache.cached_response import Copy
from resilient_site.edge.cache.invalidation import generations
from resilient_site.edge.policy import Shared, policy_at
from resilient_site.edge.request import Incoming

PROBATION_SHARE = 0.2
# Longer ones are for Django alone: they would take more room than their answers.
TOLD_MAX = 1024
# What differs by them is kept apart by other means.
OF_STRANGERS = {b"authorization", b"cookie"}


# What needs no decoding, as most queries do: that takes longer than all the rest.
_is_plain = re.compile(
    rb"(?:[\w.~-]+=[\w.~-]*(?:&(?!\Z)|\Z)){1,20}", re.ASCII
).fullmatch

type Told = tuple[tuple[bytes, bytes], ...]


class Key(NamedTuple):
    """What tells one shared answer from all others."""

    host: bytes
    scheme: str
    path: str
    query: str
    headers: Told


def key_of(request: Incoming) -> Key | None:
    """Return None if the answer to this request is not shared."""
    shared = policy_at(request.path, "GET").shared
    if shared is None:
        return None
    query = query_of(request.query, shared) if request.query else ""
    host = request.headers.get(b"host", b"")
    told = _told(request, shared.headers) if shared.headers else ()
    if query is None or told is None or len(query) + len(host) > TOLD_MAX:
        return None
    scheme = request.scope.get("scheme", "http")
    return Key(host, scheme, request.path, query, told)


def _told(request: Incoming, names: tuple[bytes, ...]) -> Told | None:
    """Return what these headers say; None if they say too much."""
    told = tuple((name, request.headers.get(name, b"")) for name in names)
    return told if sum(len(value) for _, value in told) <= TOLD_MAX else None


def may_be_shared(copy: Copy, key: Key) -> bool:
    """Tell whether it is the same for all who ask with this key."""
    differs_by = copy.vary - OF_STRANGERS
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


class ReadCache:
    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._probation: OrderedDict[Key, Copy] = OrderedDict()
        self._proven: OrderedDict[Key, Copy] = OrderedDict()
        self._probation_bytes = 0

    def __len__(self) -> int:
        return len(self._probation) + len(self._proven)

    def get(self, key: Key) -> Copy | None:
        if copy := self._proven.get(key):
            self._proven.move_to_end(key)
            return copy
        if copy := self._probation.pop(key, None):
            self._probation_bytes -= copy.size
            self._proven[key] = copy
        return copy

    def put(self, key: Key, copy: Copy) -> bool:
        """Keep it, unless one that was read later is here; tell whether it was none."""
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


def is_fresh(copy: Copy) -> bool:
    return copy.age < copy.fresh_s and generations.is_current(copy.mark)


def may_be_shown_meanwhile(copy: Copy) -> bool:
    """Tell whether it may be shown while a new one is fetched (RFC 5861, section 3).

    Not if it is known to be outdated: a change is seen at once. Nor where another
    machine's change may be unheard of: there it is seen when the copy has served.
    """
    limit = copy.fresh_s + copy.stale_while_revalidate_s
    return (
        copy.age < limit
        and generations.is_current(copy.mark)
        and invalidation_pubsub.hears_all()
    )


copies = ReadCache(settings.READ_CACHE_BYTES)
