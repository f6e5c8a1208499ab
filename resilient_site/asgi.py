"""The site as an ASGI application."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")

from resilient_site.edge.app import application as application  # noqa: E402
