"""What is measured, in this order: first what needs no large catalogue."""

from importlib import import_module

NAMES = (
    "reads", "lookups", "cold", "writes", "overload", "jobs", "delays", "cores",
    "beside", "footprint", "growth", "lists", "files",
)  # fmt: skip
# Each has a TITLE, and `measure(bench)`, which yields what it finds.
SECTIONS = {name: import_module(f"{__name__}.{name}") for name in NAMES}
