"""Run a command of `manage.py`, and write its peak memory in MB to a file.

    python -m tests.load.peak_memory FILE COMMAND [ARGUMENTS]

The figure for its parent (ru_maxrss) would include the parent.
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
