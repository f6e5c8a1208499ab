"""Refusals while too much comes in, at the price of little more than reading a request.

They would otherwise take the time of those who are let in. Whoever might be shown what
is known already, and whoever says who he is, goes the whole way.
"""

from resilient_site.edge import origin
from resilient_site.edge.fallback import may_find_shared
from resilient_site.edge.incoming import Incoming, Kind
from resilient_site.edge.public import coming, flights
from resilient_site.edge.readcache import Key

# In a rush: beside those who are in, who take the places of the first to leave.
NEXT = 2
# Before it is known to be one. More would not get in within the time a queue may stand,
# and each costs more than a refusal.
PER_THREAD = 2


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
    admission = origin.admission
    if admission.is_standing:
        most = admission.limit.now + NEXT
    else:
        most = PER_THREAD * admission.threads
    if len(flights) + len(coming) < most:
        coming.add(key)
        return False
    if may_find_shared(key):
        return False
    admission.count_refusal(Kind.READ)
    return True
