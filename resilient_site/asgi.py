"""The site as an ASGI application."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")

from resilient_site.edge.app import application as edge  # noqa: E402
from resilient_site.observability import tracing  # noqa: E402

application = tracing.instrument_asgi(edge)
