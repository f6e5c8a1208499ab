"""What all this was measured on."""

import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from tests.load.bench import places


def describe() -> dict[str, str]:
    memory = psutil.virtual_memory().total / 2**30
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
