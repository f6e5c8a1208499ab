"""The site as an ASGI application."""

from resilient_site.edge.app import application

__all__ = ["application"]
