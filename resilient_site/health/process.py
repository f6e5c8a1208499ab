"""What the process that answers holds, for people who run the site."""

import threading

from django.template.defaultfilters import filesizeformat

from resilient_site.cache.lru import held
from resilient_site.observability.memory_usage import heap
from resilient_site.resilience.bounded_dict import all_latest

YOUNG, MIDDLE, OLD = range(3)


def figures() -> dict[str, str]:
    from resilient_site.edge.cache.stores import copies, last_known

    told, memory = heap(), held()
    collections = (told[f"gc_{n}_collections"] for n in (YOUNG, MIDDLE, OLD))
    on_disk = last_known.count(), last_known.size(), last_known.max_bytes
    return {
        "Process id": str(told["pid"]),
        "Threads": str(threading.active_count()),
        "Memory": filesizeformat(told["resident_bytes"]),
        "Memory of its own": filesizeformat(told["private_bytes"]),
        "Frozen objects": f"{told['frozen_objects']:,}",
        "Collections (young, middle, old)": ", ".join(f"{n:,}" for n in collections),
        "Answers in memory": _filled(len(copies), copies.bytes, copies.max_bytes),
        "Cache in memory": _filled(memory.entries, memory.bytes, memory.most_bytes),
        "Last known on the disk": _filled(*on_disk),
        **{
            name: f"{len(latest):,} of {latest.most:,}"
            for name, latest in sorted(all_latest.items())
        },
    }


def _filled(entries: int, used: int, most: int) -> str:
    return f"{entries:,} in {filesizeformat(used)} of {filesizeformat(most)}"
