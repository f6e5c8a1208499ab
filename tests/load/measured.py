"""Run a command of `manage.py`, and write down its largest memory, in MB.

    python -m tests.load.measured FILE COMMAND [ARGUMENTS]

What the kernel tells a parent of it (ru_maxrss) counts the parent, too.
"""

import atexit
import resource
import runpy
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def largest_mb() -> float:
    if STATUS.exists():
        lines = STATUS.read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    file = Path(sys.argv[1]).resolve()
    atexit.register(lambda: file.write_text(f"{largest_mb()}"))
    sys.argv = ["manage.py", *sys.argv[2:]]
    runpy.run_path("manage.py", run_name="__main__")
