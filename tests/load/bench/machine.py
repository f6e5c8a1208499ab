"""What all this was measured on."""

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.load.bench import places
from tests.servers import Postgres, Redis, _which

PACKAGES = (
    "django", "djangorestframework", "django-ninja", "fastapi", "gunicorn", "uvicorn",
    "celery", "pebble", "psycopg",
)  # fmt: skip


def described() -> dict[str, str]:
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "placement": places.describe(),
        "load generator": generator(),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "servers": "; ".join(_servers()),
        "load average at the start": load_average(),
    }


def in_a_line() -> str:
    found = described()
    names = ("processor", "memory", "system")
    line = ", ".join(found[name] for name in names)
    return (
        f"{line}, Python {found['Python']}; load average at the start {load_average()}"
    )


def generator() -> str:
    if shutil.which("wrk"):
        return "wrk for rates, Python (uvloop, httptools) for open loops"
    return (
        "Python (uvloop, httptools): wrk is not installed, so rates above some "
        "thousands a second are the generator's"
    )


def load_average() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _servers() -> Iterable[str]:
    for find, option in (
        (Postgres.find, "--version"),
        (Redis.find, "--version"),
        (lambda: _which("nginx", "nginx"), "-v"),
    ):
        try:
            yield _first_line(str(find()), option)
        except LookupError as error:
            yield str(error)


def _first_line(*command: str) -> str:
    found = subprocess.run(command, capture_output=True, text=True)
    line = (found.stdout or found.stderr).splitlines()[0]
    return line.partition(" sha=")[0].strip()
