"""Keys of cached responses: of those for all clients, and of those for one."""

import re
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from django.conf import settings

from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cors import adds_cors_headers
from resilient_site.edge.policy import Shared, policy_at
from resilient_site.edge.request import EdgeRequest

# Longer ones are for Django alone: they would take more room than the response.
VARYING_MAX = 1024
# Requests with credentials are kept apart by other means.
CREDENTIAL_HEADERS = {b"authorization", b"cookie"}
# Headers that the responses to one client depend on.
PRIVATE_HEADERS = (b"host", b"hx-request", b"hx-target")

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


class PrivateKey(NamedTuple):
    """Key of a response to one client; `credentials` are digests."""

    credentials: tuple[str, ...]
    path: str
    query: bytes
    headers: Varying


def private_key_of(request: EdgeRequest) -> PrivateKey | None:
    """Return the key of what is for this client alone; None if it is anonymous."""
    if not request.credentials:
        return None
    varying = tuple((name, request.headers.get(name, b"")) for name in PRIVATE_HEADERS)
    return PrivateKey(request.credentials, request.path, request.query, varying)


def key_of(request: EdgeRequest) -> Key | None:
    """Return the key; None if the response to this request is not shared."""
    shared = policy_at(request.path, "GET").shared
    if shared is None:
        return None
    query = query_of(request.query, shared) if request.query else ""
    host = request.headers.get(b"host", b"")
    varying = tuple((name, request.headers.get(name, b"")) for name in shared.headers)
    if query is None or len(query) + len(host) > VARYING_MAX:
        return None
    if sum(len(value) for _, value in varying) > VARYING_MAX:
        return None
    return Key(host, request.scope["scheme"], request.path, query, varying)


def may_be_shared(copy: CachedResponse, key: Key) -> bool:
    """Return whether it is the same for all requests with this key."""
    differs_by = copy.vary - CREDENTIAL_HEADERS
    if adds_cors_headers(key.path):
        differs_by -= {b"origin"}
    return bool(copy.fresh_s) and differs_by <= {name for name, _ in key.headers}


def query_of(query: bytes, shared: Shared) -> str | None:
    """Return the parameters that count, in one order.

    None if they are too many, or if one is unknown to a view that rejects those.
    """
    if not shared.parameters:
        return None if shared.is_strict else ""
    if _is_plain(query):
        plain = [pair.partition("=") for pair in query.decode().split("&")]
        named = [pair for pair in plain if _counts(pair[0], shared)]
        if shared.is_strict and len(named) < len(plain):
            return None
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
        (pair for pair in pairs if _counts(pair[0], shared)), key=itemgetter(0)
    )
    is_unknown = shared.is_strict and len(counting) < len(pairs)
    return None if is_unknown else urlencode(counting)


def _counts(name: str, shared: Shared) -> bool:
    return name in shared.parameters or name.startswith(shared.prefixes)
