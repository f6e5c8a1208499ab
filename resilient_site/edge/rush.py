"""Refusals while too much comes in, at the price of little more than reading a request.

They would otherwise take the time of those who are let in. Whoever might be shown what
is known already, and whoever says who he is, goes the whole way.
"""

from contextvars import copy_context

from resilient_site.edge import origin
from resilient_site.edge.admission import refusal
from resilient_site.edge.copies import Headers
from resilient_site.edge.fallback import may_find_shared
from resilient_site.edge.incoming import Incoming, Kind, tidy
from resilient_site.edge.public import coming, flights
from resilient_site.edge.readcache import Key, key_of
from resilient_site.edge.refusals import render
from resilient_site.later import Message
from resilient_site.requestid import begin_exchange


def refusal_of(scope: Message) -> tuple[Headers, bytes] | None:
    """Return the refusal of a request that is certain to be refused, else None."""
    admission = origin.admission
    if not admission.is_standing or scope["method"] != "GET":
        return None
    tidy(scope)
    request = Incoming(scope)
    if not request.is_anonymous or request.has_cookie or request.wants_no_fetch:
        return None
    if request.kind(False) is not Kind.READ:
        return None
    key = key_of(request)
    if key is None or any(map(_may_be_answered, _keys(key, request))):
        return None
    # As many as are let in, and as many behind them. Many requests come in at once,
    # before the first of them has got as far as a flight.
    if len(flights) + len(coming) < 2 * admission.limit.now:
        coming.add(key._replace(scheme=""))
        return None
    admission.count_refusal(Kind.READ)
    # The id of this request must not be left behind in the connection's context.
    return copy_context().run(_render, request)


def _may_be_answered(key: Key) -> bool:
    return key in flights or key._replace(scheme="") in coming or may_find_shared(key)


def _keys(key: Key, request: Incoming) -> list[Key]:
    """Return the keys by which it may be known: a proxy's word is not weighed here."""
    scheme = request.headers.get(b"x-forwarded-proto")
    if scheme is None:
        return [key]
    return [key, key._replace(scheme=scheme.decode("latin-1"))]


def _render(request: Incoming) -> tuple[Headers, bytes]:
    extra = begin_exchange(request.scope)
    return render(request, refusal(), extra)
