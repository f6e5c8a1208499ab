"""What is measured, in this order: first what needs no large catalogue."""

from types import ModuleType

from tests.load.bench.sections import (
    beside,
    cold,
    cores,
    delays,
    files,
    growth,
    jobs,
    lists,
    overload,
    reads,
    writes,
)

# Each has a TITLE, and `measure(bench)`, which yields what it finds.
SECTIONS: dict[str, ModuleType] = {
    "reads": reads,
    "cold": cold,
    "writes": writes,
    "overload": overload,
    "jobs": jobs,
    "delays": delays,
    "cores": cores,
    "beside": beside,
    "growth": growth,
    "lists": lists,
    "files": files,
}
