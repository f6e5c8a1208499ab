"""Preload of the fork server: what every pool process starts with."""

import gc
import signal
import warnings

import django
from django.db import connections

from compute.pool import process_tree
from resilient_site.observability import multiprocess
from resilient_site.operations import supervision

supervision.set_name("fork-server")

# A SIGTERM to the process group is for the supervisor, which lets running jobs finish.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# What a job leaves behind when its process is killed is adopted here, and killed.
process_tree.adopt_orphans()
process_tree.end_with_supervisor()
warnings.filterwarnings("ignore", "forkserver: waitpid returned unexpected pid")

# Pool processes come and go: what they count would stay behind.
multiprocess.keep_apart()
django.setup()

# Excluded from garbage collection, so that the pages stay shared between processes.
gc.collect()
gc.freeze()
connections.close_all()
