"""Answers on the shortest way: from the protocol, without a task of their own.

What is fresh in memory is found without waiting for anything, and so is that there is
too much to do. To make a task for it, and to pass its parts through ASGI, would cost
more than to find it.
"""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from resilient_site.edge import public, rush
from resilient_site.edge.copies import Headers
from resilient_site.edge.incoming import Incoming, tidy
from resilient_site.edge.observing import HIT, REFUSED, tell_at_once
from resilient_site.later import Message
from resilient_site.requestid import name_exchange

SCHEMES = {b"http": "http", b"https": "https"}


def answer(scope: Message, is_from_proxy: bool, defaults: Headers) -> bytes | None:
    """Return the whole answer if it can be told at once; None if ASGI is to be asked.

    What a trusted proxy says of the scheme counts, as it does on the long way.
    """
    tidy(scope)
    request = Incoming(scope)
    said = request.headers.get(b"x-forwarded-proto") if is_from_proxy else None
    if said is not None:
        if said not in SCHEMES:
            return None
        scope["scheme"] = SCHEMES[said]
    if copy := public.find_fresh(request):
        extra = [*copy.status(b"hit"), *name_exchange(request.headers)]
        status, headers, body = copy.answer(request, extra)
    elif refused := rush.refusal_of(request):
        status, (headers, body) = 503, refused
    else:
        return None
    how = HIT if copy else REFUSED
    tell_at_once(scope, status, how, len(body))
    lines = [b"%b: %b\r\n" % field for field in (*defaults, *headers)]
    content = b"" if request.method == "HEAD" else body
    return b"".join((STATUS_LINE[status], *lines, b"\r\n", content))
