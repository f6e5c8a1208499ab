"""Refusals while too much comes in, at the price of little more than reading a request.

They would otherwise take the time of those who are let in. Whoever might be shown what
is known already, and whoever says who he is, goes the whole way.
"""

from contextvars import copy_context

from resilient_site.edge import origin
from resilient_site.edge.admission import refusal
from resilient_site.edge.copies import Headers
from resilient_site.edge.fallback import may_find_shared
from resilient_site.edge.incoming import Incoming, Kind
from resilient_site.edge.public import coming, flights, key_of_shared
from resilient_site.edge.refusals import render
from resilient_site.requestid import begin_exchange


def refusal_of(request: Incoming) -> tuple[Headers, bytes] | None:
    """Return the refusal of a request that is certain to be refused, else None."""
    admission = origin.admission
    if not admission.is_standing or request.method != "GET":
        return None
    if not request.is_anonymous or request.has_cookie or request.wants_no_fetch:
        return None
    if request.kind(False) is not Kind.READ:
        return None
    key = key_of_shared(request)
    if key is None or key in flights or key in coming or may_find_shared(key):
        return None
    # As many as are let in, and as many behind them. Many requests come in at once,
    # before the first of them has got as far as a flight.
    if len(flights) + len(coming) < 2 * admission.limit.now:
        coming.add(key)
        return None
    admission.count_refusal(Kind.READ)
    # The id of this request must not be left behind in the connection's context.
    return copy_context().run(_render, request)


def _render(request: Incoming) -> tuple[Headers, bytes]:
    extra = begin_exchange(request.scope)
    return render(request, refusal(), extra)
