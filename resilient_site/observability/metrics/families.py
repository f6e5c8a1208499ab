"""Every metric of the site: its name, kind, labels, and what it says.

Where a figure is one of each process, the processes are added up, or of `highest` the
largest counts.
"""

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "resilient_site_"


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HIGHEST = "highest"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Family:
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {}


def family(kind: Kind, name: str, text: str, *labels: str) -> None:
    FAMILIES[name] = Family(kind, text, labels)


family(
    Kind.COUNTER, "requests", "Requests answered; by what the edge did for them.",
    "route", "method", "status", "edge",
)  # fmt: skip
family(
    Kind.HISTOGRAM, "request_duration_seconds",
    "From the head of a request to the end of its answer, but of those that were "
    "answered at once, from memory.", "route", "method", "status_class",
)  # fmt: skip
family(Kind.GAUGE, "breakers", "Breakers by state: in how many processes.",
       "breaker", "state")  # fmt: skip
family(Kind.COUNTER, "breaker_transitions", "Changes of a breaker's state.",
       "breaker", "to")  # fmt: skip
family(Kind.GAUGE, "admission_limit", "Requests that are let in at a time.")
family(Kind.GAUGE, "admission_running", "Requests in Django.", "kind")
family(Kind.GAUGE, "admission_queued", "Requests that wait to be let in.", "kind")
family(Kind.COUNTER, "admission_admitted", "Requests that were let in.", "kind")
family(Kind.COUNTER, "admission_refused", "Requests that were refused.", "kind")
family(Kind.COUNTER, "retries", "Calls that were tried again.")
family(Kind.COUNTER, "retries_refused",
       "Calls that were not tried again, as too many had been.")  # fmt: skip
family(Kind.COUNTER, "rate_limited", "Requests refused with 429.", "policy")
family(Kind.COUNTER, "database_connections_opened", "Connections to the database.")
family(Kind.GAUGE, "redis_subscribed",
       "Processes that hear of changes on other machines.")  # fmt: skip
family(Kind.HIGHEST, "part_up", "1 while a part of the site is well.", "part")
family(Kind.GAUGE, "cache_bytes", "What the caches in memory hold.", "cache")
family(Kind.GAUGE, "processes", "Processes that told their figures.", "role")
family(Kind.COUNTER, "processes_started", "Processes that were started.", "role")
family(Kind.GAUGE, "resident_bytes", "Memory of all processes.", "role")
family(Kind.HIGHEST, "largest_resident_bytes", "Memory of the largest process.", "role")
family(Kind.COUNTER, "gc_collections", "Collections of garbage.", "generation")
family(Kind.COUNTER, "log_lines_dropped", "Log lines that nobody read in time.")
family(Kind.HIGHEST, "jobs_waiting", "Jobs that wait, without parts.")
family(Kind.HIGHEST, "jobs_due", "Jobs that could be worked on at once, with parts.")
family(Kind.HIGHEST, "jobs_running", "Jobs that are worked on.")
family(Kind.COUNTER, "jobs_ended", "Runs of jobs, by how they ended.", "task", "how")
family(Kind.HISTOGRAM, "job_duration_seconds", "How long runs of jobs took.", "task")
family(Kind.COUNTER, "pool_processes_started", "Processes of the pool.")
