"""Refusals while too much comes in, at the price of little more than reading a request.

They would otherwise take the time of those who are let in. Whoever might be shown what
is known already, and whoever says who he is, goes the whole way.
"""

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.cache.coalescing import coming, flights
from resilient_site.edge.cache.keys import Key
from resilient_site.edge.cache.stale_responses import may_find_shared
from resilient_site.edge.request import Incoming, Kind


def is_refused(request: Incoming, key: Key) -> bool:
    """Tell whether it is certain to be refused; if so, that is counted.

    Else it is noted as coming: many requests come in at once, before the first of them
    has got as far as a flight.
    """
    if request.method != "GET" or not request.is_anonymous or request.has_cookie:
        return False
    if request.wants_no_fetch or request.kind(False) is not Kind.READ:
        return False
    if key in flights or key in coming:
        return False
    admission = wsgi_bridge.admission
    if len(flights) + len(coming) < admission.strangers_most:
        coming.add(key)
        return False
    if may_find_shared(key):
        return False
    admission.count_refusal(Kind.READ)
    return True
