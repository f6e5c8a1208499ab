"""Memory figures of the process that answers, for the status page."""

import os
import threading

from django.template.defaultfilters import filesizeformat

from resilient_site.cache.memory import memory_usage
from resilient_site.observability.memory_usage import resident_bytes
from resilient_site.resilience.bounded_dict import bounded_dicts


def describe_process() -> dict[str, str]:
    from resilient_site.edge.cache.store import response_store

    memory, responses = memory_usage(), response_store.memory
    return {
        "Process id": str(os.getpid()),
        "Threads": str(threading.active_count()),
        "Memory": filesizeformat(resident_bytes()),
        "Cached responses": _fill_level(
            len(responses), responses.bytes, responses.max_bytes
        ),
        "Cache in memory": _fill_level(memory.entries, memory.bytes, memory.max_bytes),
        "Stale responses on disk": _fill_level(
            *response_store.disk_usage(), response_store.max_disk_bytes
        ),
        **{
            name: f"{len(latest):,} of {latest.max_entries:,}"
            for name, latest in sorted(bounded_dicts.items())
        },
    }


def _fill_level(entries: int, used: int, most: int) -> str:
    return f"{entries:,} in {filesizeformat(used)} of {filesizeformat(most)}"
