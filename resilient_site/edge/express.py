"""Hits on the shortest way: from the protocol, without a task of their own.

What is fresh in memory is found without waiting for anything. To make a task for it,
and to pass its parts through ASGI, would cost more than to find it.
"""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from resilient_site.edge import public
from resilient_site.edge.copies import Headers
from resilient_site.edge.incoming import Incoming, tidy
from resilient_site.later import Message
from resilient_site.requestid import name_exchange

# By these a proxy may change what was asked for: Uvicorn knows which to believe.
OF_PROXIES = {b"x-forwarded-proto", b"x-forwarded-for"}


def answer(scope: Message, defaults: Headers) -> bytes | None:
    """Return the whole answer if a fresh copy is that; None if ASGI is to be asked."""
    tidy(scope)
    request = Incoming(scope)
    if not OF_PROXIES.isdisjoint(request.headers):
        return None
    copy = public.find_fresh(request)
    if copy is None:
        return None
    extra = [*copy.status(b"hit"), *name_exchange(request.headers)]
    status, headers, body = copy.answer(request, extra)
    lines = [b"%b: %b\r\n" % field for field in (*defaults, *headers)]
    content = b"" if request.method == "HEAD" else body
    return b"".join((STATUS_LINE[status], *lines, b"\r\n", content))
