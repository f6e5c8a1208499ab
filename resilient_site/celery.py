"""Celery application of the site: `celery -A resilient_site worker` (also `inspect`,
`events`, `flower`). Its settings are those in resilient_site/settings.py that begin
with CELERY_; it matters only with COMPUTE_BACKEND=celery.
"""

import logging.config
import os
from functools import partialmethod
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings
from kombu import Connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")

# The longest pause between attempts to connect to the broker, which is otherwise half a
# minute, without a setting for it.
RECONNECT_MAX_S = 2
Connection.ensure_connection = partialmethod(
    Connection.ensure_connection, interval_max=RECONNECT_MAX_S
)

app = Celery("resilient_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
# A package `celery` in each application, such as compute/celery/.
app.autodiscover_tasks(related_name="celery")


@setup_logging.connect  # type: ignore[untyped-decorator]
def set_up_logging(**options: Any) -> None:
    logging.config.dictConfig(settings.LOGGING)
