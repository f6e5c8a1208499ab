"""Preload of the fork server: what every pool process starts with."""

import gc
import signal

import django
from django.db import connections

# A SIGTERM to the process group is for the supervisor, which lets running jobs finish.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

django.setup()

# Excluded from garbage collection, so that the pages stay shared between processes.
gc.collect()
gc.freeze()
connections.close_all()
