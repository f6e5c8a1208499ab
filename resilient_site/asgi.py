"""The site as an ASGI application: Django's WSGI handler in a pool of threads.

Django's own ASGI handler costs about three times as much for synchronous views.
"""

from a2wsgi import WSGIMiddleware
from django.conf import settings

from resilient_site.wsgi import application as django

application = WSGIMiddleware(
    django,  # type: ignore[arg-type]  # its responses are iterables of bytes
    workers=settings.WEB_THREADS,
)
