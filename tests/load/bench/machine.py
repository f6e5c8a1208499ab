"""What all this was measured on."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.load.bench import places
from tests.servers import Postgres, Redis, _which

PACKAGES = (
    "django", "djangorestframework", "django-ninja", "fastapi", "gunicorn", "uvicorn",
    "celery", "pebble", "psycopg",
)  # fmt: skip


def describe() -> dict[str, str]:
    memory = psutil.virtual_memory().total / 2**30
    servers = (
        _version(Postgres.find, "--version"),
        _version(Redis.find, "--version"),
        _version(lambda: _which("nginx", "nginx"), "-v"),
    )
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "placement": places.describe(),
        "load generator": (
            "wrk for rates, Python (uvloop, httptools) for open loops"
            if shutil.which("wrk")
            else "Python (uvloop, httptools), as wrk is not installed: rates above "
            "some thousands a second are the generator's"
        ),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "servers": "; ".join(servers),
        "load average at the start": load_average(),
    }


def load_average() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(find, option: str) -> str:
    try:
        command = [str(find()), option]
    except LookupError as error:
        return str(error)
    done = subprocess.run(command, capture_output=True, text=True)
    line = (done.stdout or done.stderr).splitlines()[0]
    return line.partition(" sha=")[0].strip()
