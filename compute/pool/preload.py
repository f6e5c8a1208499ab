"""Loaded once by the fork server, so that every pool process starts with it."""

import gc
import signal

import django
from django.db import connections

# A stop of the group is for the supervisor: it lets the jobs end first.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

django.setup()

# Nothing of these is freed again: out of the way of the collector, and shared for good.
gc.collect()
gc.freeze()
connections.close_all()
