"""Shifts the clock of a process; Python loads this module by its name.

The file named by CLOCK_FILE contains the offset in seconds.
"""

import os
import threading
import time
from pathlib import Path

import time_machine

POLL_S = 0.1


def watch() -> None:
    path, seconds, traveller = Path(os.environ["CLOCK_FILE"]), 0.0, None
    waiting = threading.Event()
    while not waiting.wait(POLL_S):
        offset = float(path.read_text() or 0)
        if offset == seconds:
            continue
        if traveller:
            traveller.stop()
        traveller = (
            time_machine.travel(time.time() + offset, tick=True) if offset else None
        )
        if traveller:
            traveller.start()
        seconds = offset


os.register_at_fork(
    after_in_child=lambda: threading.Thread(target=watch, daemon=True).start()
)
