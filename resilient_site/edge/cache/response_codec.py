"""Cached responses as bytes: JSON for what is said about the body, then the body."""

import logging
import time
from typing import Any
from zlib import crc32

import orjson

from resilient_site.edge.cache.cached_response import CachedResponse, vary_of
from resilient_site.edge.cache.invalidation import Mark, boot_id, now

logger = logging.getLogger(__name__)


def encode(key: str, response: CachedResponse, clock_s: float) -> bytes:
    """Return the response as bytes. `clock_s` is a time at or before this moment."""
    about = {
        "key": key,
        "headers": [
            (n.decode("latin-1"), v.decode("latin-1")) for n, v in response.headers
        ],
        "limits": (
            response.fresh_s,
            response.stale_while_revalidate_s,
            response.stale_if_error_s,
        ),
        "boot": boot_id(),
        "read_at": response.mark.at,
        "slots": response.mark.slots,
        "clock": clock_s,
        "age": response.age,
        "read_age": (now() - response.mark.at) / 1e9,
        "check": crc32(response.body),
    }
    return orjson.dumps(about) + b"\0" + response.body


def decode(
    key: str, data: bytes, clock_s: float, moment: int | None = None
) -> CachedResponse | None:
    """Return the response of `key`, None if it is of another key or damaged.

    `clock_s` is the present time of the clock that `encode` was given. `moment` is
    given for what another machine may have encoded: a moment at or before `clock_s`.
    """
    try:
        text, _, body = data.partition(b"\0")
        about = orjson.loads(text)
        if about["key"] != key:
            return None
        if about["check"] != crc32(body):
            raise ValueError("its body is damaged")
        return _decode(about, body, max(0.0, clock_s - about["clock"]), moment)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("A stored response cannot be read: %s", error)
        return None


def _decode(
    about: dict[str, Any], body: bytes, elapsed_s: float, moment: int | None
) -> CachedResponse:
    headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in about["headers"]]
    by_name = dict(headers)
    if about["boot"] == boot_id():
        read_at = about["read_at"]
    elif moment is None:
        read_at = 0  # changes before this boot are not known
    else:
        read_at = moment - int((about["read_age"] + elapsed_s) * 1e9)
    age = about["age"] + elapsed_s
    fresh_s, stale_while_revalidate_s, stale_if_error_s = about["limits"]
    return CachedResponse(
        headers=headers,
        body=body,
        fresh_s=fresh_s,
        stale_while_revalidate_s=stale_while_revalidate_s,
        stale_if_error_s=stale_if_error_s,
        mark=Mark(read_at, tuple(about["slots"])),
        vary=vary_of(by_name),
        stored_at=time.time() - age,
        stored=time.monotonic() - age,
        etag=by_name.get(b"etag"),
        modified=by_name.get(b"last-modified"),
    )
