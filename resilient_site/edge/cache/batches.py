"""Batches: a POST that reads at once what many GETs of its address read.

The policy of the view (`edge.policy.Batch`) names the member of the body that has the
values, and the parameter of the GET for one of them. Each result is cached as the
response to that GET, with its tags: what one of them has fetched, the other finds. A
batch of which all results are cached needs no thread; while some are fetched anew, for
many requests together, the older ones are sent; where Django fails, the stale ones are.
Any other body is for Django alone. In a private site nothing is cached here.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import IO
from urllib.parse import parse_qsl, quote_plus, urlencode

import orjson

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.edge.asgi_types import Headers, Message, Send
from resilient_site.edge.cache.cached_response import (
    EDGE_ACTION,
    HIT,
    PROBLEM_BYTES,
    CachedResponse,
)
from resilient_site.edge.cache.invalidation import now
from resilient_site.edge.cache.keys import VARYING_MAX, Key, may_be_shared
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.policy import Batch, policy_at
from resilient_site.edge.request import ClientGone, EdgeRequest, RequestContext
from resilient_site.edge.wsgi_bridge import Response, run_django
from resilient_site.errors import SiteError
from resilient_site.resilience.cache_control import Part

# Larger bodies would keep the event loop for too long.
BODY_MAX_BYTES = 128 * 1024
# Values that are due are fetched anew together, after so long.
GATHER_S = 0.1
JSON = b"application/json"
# Headers of one result that are not those of all.
OF_ONE = {
    b"content-type", b"content-length", b"content-location", b"etag", b"last-modified",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a batch asks for: `values`, and `others`, the parameters of all of them."""

    batch: Batch
    values: Sequence[str]
    others: tuple[tuple[str, str], ...]
    origin: Key  # without a query

    @property
    def keys(self) -> list[Key]:
        """Return the keys of the GETs, with their parameters in order."""
        name = self.batch.parameter
        before = urlencode([pair for pair in self.others if pair[0] < name])
        after = urlencode([pair for pair in self.others if pair[0] > name])
        start = f"{before}&{name}=" if before else f"{name}="
        end = f"&{after}" if after else ""
        host, scheme, path, _, headers = self.origin
        return [
            Key(host, scheme, path, f"{start}{quote_plus(value)}{end}", headers)
            for value in self.values
        ]

    def body(self, values: Sequence[str]) -> bytes:
        return orjson.dumps({self.batch.member: values, **dict(self.others)})


def parse(request: EdgeRequest, body: IO[bytes] | None) -> Asked | None:
    """Return what the batch asks for; None if the response is not of cached ones."""
    batch, shared = request.policy.batch, policy_at(request.path, "GET").shared
    if batch is None or shared is None or body is None:
        return None
    headers = request.headers
    is_plain = headers.get(b"content-type", b"").lower() in (
        JSON,
        JSON + b"; charset=utf-8",
    )
    if not is_plain or request.query or b"prefer" in headers or request.is_conditional:
        return None
    body.seek(0)
    text = body.read(BODY_MAX_BYTES + 1)
    try:
        members = orjson.loads(text) if len(text) <= BODY_MAX_BYTES else None
    except orjson.JSONDecodeError:
        return None
    if not isinstance(members, dict):
        return None
    values = members.pop(batch.member, None)
    if not isinstance(values, list) or not 1 <= len(values) <= batch.values_max:
        return None
    if not members.keys() <= {*shared.parameters} - {batch.parameter}:
        return None
    if not all(isinstance(value, str) for value in (*values, *members.values())):
        return None
    varying = tuple((name, headers.get(name, b"")) for name in shared.headers)
    host = headers.get(b"host", b"")
    size = len(host) + sum(len(value) for _, value in varying)
    longest = max(len(value) for value in values) + sum(map(len, members.values()))
    if size + longest > VARYING_MAX:
        return None
    origin = Key(host, request.scope["scheme"], request.path, "", varying)
    return Asked(batch, values, tuple(sorted(members.items())), origin)


async def send_cached(
    request: EdgeRequest, asked: Asked, send: Send, extra: Headers
) -> bool:
    """Send the batch if all of it is cached; return whether it was."""
    find, copies, due = response_store.memory.get, [], []
    for key, value in zip(asked.keys, asked.values, strict=True):
        copy = find(key)
        if copy is None:
            return False
        if not copy.is_fresh():
            if not copy.is_usable_while_revalidating():
                return False
            due.append(value)
        copies.append(copy)
    if not request.is_anonymous and (
        any(copy.varies_by_token for copy in copies)
        or not any(map(verified_tokens().is_valid, request.credentials))
    ):
        return False
    if due:
        _fetch_later(request, replace(asked, values=due))
    await _composed(asked, copies).send(request, send, extra)
    # Nor is it logged as a stale one: most batches have a value that is due.
    request.scope[EDGE_ACTION] = HIT
    return True


async def send_stale(
    request: EdgeRequest,
    asked: Asked,
    send: Send,
    extra: Headers,
    is_overload: bool = False,
) -> bool:
    """Send the batch however old it is; return False if a part was never fetched."""
    in_memory_only = is_overload and response_store.is_busy()
    found = await asyncio.gather(
        *(response_store.find_stale(key, in_memory_only) for key in asked.keys)
    )
    copies = [copy for copy in found if copy and copy.is_usable_if_error()]
    if len(copies) < len(found):
        return False
    await _composed(asked, copies).send_stale(request, send, extra)
    return True


def store(
    request: EdgeRequest,
    asked: Asked,
    response: Response,
    parts: Sequence[Part],
    read_at: int,
) -> None:
    """Store each of the `parts` of a response as that to the GET of its value."""
    is_whole = response.status == 200 and len(parts) == len(asked.values)
    if not is_whole or request.has_cookie or response.is_stale:
        return
    kept = [header for header in response.headers if header[0] not in OF_ONE]
    for key, part in zip(asked.keys, parts, strict=True):
        content_type = JSON if part.status == 200 else PROBLEM_BYTES
        own = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(part.body)),
        ]
        whole = response._replace(
            status=part.status,
            headers=kept + own,
            tags=" ".join(part.tags),
            body=part.body,
        )
        copy = CachedResponse.from_response(whole, read_at)
        if copy and may_be_shared(copy, key) and not copy.varies_by_token:
            response_store.renew(key, copy)


def _composed(asked: Asked, copies: Sequence[CachedResponse]) -> CachedResponse:
    """Return the batch as one response, as old as the oldest of its results."""
    name, absent = asked.batch.parameter, asked.batch.absent
    results = [
        copy.body if copy.status == 200 else orjson.dumps({name: value, **absent})
        for copy, value in zip(copies, asked.values, strict=True)
    ]
    body = b'{"results":[%b]}' % b",".join(results)
    oldest = min(copies, key=lambda copy: copy.stored)
    headers = [header for header in oldest.headers if header[0] not in OF_ONE]
    headers += [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
    return replace(oldest, headers=headers, body=body, status=200)


# --- fetching anew


@dataclass
class Fetch:
    """What is fetched for one origin and its other parameters."""

    due: dict[str, None]
    under_way: set[str] = field(default_factory=set)
    task: asyncio.Task[None] = field(init=False)


_fetches: dict[tuple[Key, tuple[tuple[str, str], ...]], Fetch] = {}


def fetch_with_others(request: EdgeRequest, key: Key) -> bool:
    """Have the response to a GET fetched anew in a batch; return whether it will be."""
    batch = policy_at(key.path, "POST").batch
    pairs = sorted(parse_qsl(key.query))
    values = [value for name, value in pairs if batch and name == batch.parameter]
    if batch is None or len(values) != 1 or len(dict(pairs)) < len(pairs):
        return False
    others = tuple(pair for pair in pairs if pair[0] != batch.parameter)
    asked = Asked(batch, values, others, key._replace(query=""))
    # Else it is the response to another query, such as one with an empty parameter.
    if asked.keys == [key]:
        _fetch_later(request, asked)
    return asked.keys == [key]


def _fetch_later(request: EdgeRequest, asked: Asked) -> None:
    """Have the values fetched anew soon, with those of other requests."""
    name, values = (asked.origin, asked.others), asked.values
    if fetch := _fetches.get(name):
        fetch.due.update((v, None) for v in values if v not in fetch.under_way)
        return
    fetch = _fetches[name] = Fetch(dict.fromkeys(values))
    fetch.task = asyncio.create_task(_fetch(request, asked, fetch))
    fetch.task.add_done_callback(lambda _: _fetches.pop(name, None))


async def _fetch(request: EdgeRequest, asked: Asked, fetch: Fetch) -> None:
    while fetch.due:
        await asyncio.sleep(GATHER_S)
        values = list(fetch.due)[: asked.batch.values_max]
        for value in values:
            del fetch.due[value]
        fetch.under_way = set(values)
        context, read_at = RequestContext(is_shared=True), now()
        body = asked.body(values)
        post = request.as_shared_post(body, asked.origin.headers)
        with suppress(SiteError, ClientGone):  # it is due for the next batch again
            response = await run_django(post, BytesIO(body), context, _send_nothing)
            if response:
                these = replace(asked, values=values)
                store(post, these, response, context.parts, read_at)
        fetch.under_way = set()


async def _send_nothing(message: Message) -> None:
    """What is fetched is never streamed."""
