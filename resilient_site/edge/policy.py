"""What a view states about its requests, in one decorator at the view.

The edge reads here what it may cache, how urgent a request is and how long it may take;
the request body its limit; the rate limiter its class. There is no list of URL patterns
beside it. A view without the decorator has the default policy: nothing is shared, a
body has at most MAX_BODY_BYTES, and requests are plain reads and writes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from django.conf import settings
from django.urls import Resolver404, ResolverMatch, resolve

from resilient_site.api.unknown_names import prefixes_of
from resilient_site.resilience.cache_control import Part

# Names of routes beside the patterns of URLs, which are few; paths may be any number.
UNKNOWN, STATIC, PROBE = "(unknown)", "(static)", "(probe)"
PROBES = {"/livez", "/readyz", "/metrics"}
READ, WRITE = "read", "write"
# Class of requests without a rate limit, such as those of monitoring.
UNLIMITED = "unlimited"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# Longer paths are not looked up: the entry would be larger than what it saves.
PATH_MAX = 512
RELEVANT_HEADERS = frozenset(
    b"host cookie authorization content-length transfer-encoding x-request-id "
    b"traceparent if-none-match if-modified-since if-match if-unmodified-since "
    b"origin".split()
)
# Takes what the URLs of several GETs name. Returns their responses, None for those that
# are not plain; see `cache.grouped_reads`.
type ReadMany = Callable[[Sequence[Mapping[str, str]]], Sequence[Part | None]]
_parameter = re.compile(r"\(\?P<(\w+)>[^)]*\)|<(?:\w+:)?(\w+)>")


@dataclass(frozen=True)
class Shared:
    """Parameters and headers that the shared responses of a view depend on."""

    parameters: tuple[str, ...] = ()
    headers: tuple[bytes, ...] = ()
    # Whether the view rejects other parameters, so that those requests are its own.
    is_strict: bool = False

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """What begins the names of other parameters that count."""
        return prefixes_of(self.parameters)

    @cached_property
    def relevant_headers(self) -> frozenset[bytes]:
        """All headers that count for whether and how a shared response is sent."""
        return RELEVANT_HEADERS.union(self.headers)

    @cached_property
    def without_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What stands in the key of a request that has none of `headers`."""
        return tuple((name, b"") for name in self.headers)


@dataclass(frozen=True)
class Batch:
    """A POST that reads what several GETs of its address read: see `cache.batches`."""

    # The member of the body with the values, and the parameter of GET for one of them.
    member: str
    parameter: str
    values_max: int
    # The result for a value of which GET says 404, beside the value itself.
    absent: Mapping[str, Any]


@dataclass(frozen=True)
class ViewPolicy:
    # None: responses are not the same for all clients.
    shared: Shared | None = None
    # Reads the responses to several GETs without a query at once.
    read_many: ReadMany | None = None
    # A POST that is a read, although its method is not safe.
    batch: Batch | None = None
    # Takes long, or keeps a thread for long: last in the queue, with a long deadline.
    is_heavy: bool = False
    # Only its writes are.
    heavy_writes: bool = False
    # The setting with the limit of a form, whose files are kept on disk.
    form_limit: str = "MAX_BODY_BYTES"
    # Classes of settings.RATE_LIMITS.
    read_rate: str = READ
    write_rate: str = WRITE
    # The URL pattern, by which requests are counted and logged.
    route: str = field(default=UNKNOWN, compare=False)


DEFAULT = ViewPolicy()


def policy[V: Callable[..., Any]](
    *,
    shared: tuple[str, ...] | None = None,
    shared_headers: tuple[str, ...] = (),
    read_many: ReadMany | None = None,
    batch: Batch | None = None,
    is_heavy: bool = False,
    heavy_writes: bool = False,
    form_limit: str = "MAX_BODY_BYTES",
    read_rate: str = READ,
    write_rate: str = WRITE,
) -> Callable[[V], V]:
    """State the policy of a view, or of an action of a viewset.

    `shared` names the parameters of the query that make a difference to responses that
    are the same for all clients without a session or token; `shared_headers` the
    headers that do. `read_many` reads such responses for many requests together, and
    `batch` makes a POST a read of many.
    """
    names = tuple(name.lower().encode() for name in shared_headers)

    def decorate(view: V) -> V:
        is_strict = hasattr(view, "query_parameters")
        differs_by = None if shared is None else Shared(shared, names, is_strict)
        view.policy = ViewPolicy(  # type: ignore[attr-defined]
            differs_by, read_many, batch, is_heavy, heavy_writes, form_limit, read_rate,
            write_rate,
        )  # fmt: skip
        return view

    return decorate


def policy_of(view: Any, method: str) -> ViewPolicy:
    """Return what a view that a URL is resolved to states about this method."""
    method = "get" if method == "HEAD" else method.lower()
    if actions := getattr(view, "actions", None):
        view = getattr(view.cls, actions.get(method, ""), None)
    elif view_class := getattr(view, "view_class", None) or getattr(view, "cls", None):
        handler = getattr(view_class, method, None)
        view = handler if hasattr(handler, "policy") else view_class
    found = getattr(view, "policy", None)
    stated = found if isinstance(found, ViewPolicy) else DEFAULT
    if stated.heavy_writes and method not in ("get", "options"):
        return replace(stated, is_heavy=True)
    return stated


@lru_cache(maxsize=16_384)
def policy_at(path: str, method: str) -> ViewPolicy:
    """Return the policy for a request; resolving costs more than a cache hit."""
    if len(path) > PATH_MAX:
        return DEFAULT
    match = resolve_path(path)
    if match is None:
        is_static = path.startswith(f"/{settings.STATIC_URL.strip('/')}/")
        return replace(DEFAULT, route=STATIC if is_static else UNKNOWN)
    stated = _policy_of_route(match.route, match.func, method)
    may_share = settings.READ_CACHE and settings.PUBLIC_READ
    return stated if may_share else replace(stated, shared=None, read_many=None)


@lru_cache(maxsize=1_024)
def _policy_of_route(pattern: str, view: Any, method: str) -> ViewPolicy:
    """Return the policy with the route, such as `/api/v1/items/<id>`."""
    named = _parameter.sub(lambda found: f"<{found[1] or found[2]}>", pattern)
    route = f"/{named.removesuffix('$').removesuffix('/?').replace('^', '')}"
    stated = policy_of(view, method)
    return replace(stated, route=PROBE if route in PROBES else route)


# A few entries are enough: Django resolves a path right after its policy was found.
@lru_cache(maxsize=256)
def resolve_path(path: str) -> ResolverMatch | None:
    try:
        return resolve(path)
    except Resolver404:
        return None
