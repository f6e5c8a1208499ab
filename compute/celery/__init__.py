"""Celery as the transport of jobs: `celery -A compute.celery worker` runs a worker."""

from compute.celery.app import app

__all__ = ["app"]
