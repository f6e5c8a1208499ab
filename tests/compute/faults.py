"""Tasks that misbehave, and some that do nothing: COMPUTE_TASKS names this module.

It also shortens the time after which a message is lost, in the workers of tests that
wait for that (TEST_LOST_AFTER_S), lets a pool poll as good as never (TEST_POLL_S) and
end a process after few jobs (TEST_JOBS_MAX), takes longer jobs for short ones
(TEST_SHORT_S), and changes few items already in parts (TEST_PORTION).
"""

import ctypes
import os
import signal
import subprocess
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from rest_framework import serializers

from compute import queue
from compute.pool import supervisor, worker_process
from compute.registry import Parts, TaskFailed, has_permissions, is_authenticated, task
from compute.task_context import TaskContext
from compute.tasks import change_items
from items.bulk import portions

ON_FILE = "Written in attempt {}\n"

if poll_s := os.environ.get("TEST_POLL_S"):
    supervisor.POLL_S = float(poll_s)
if short_s := os.environ.get("TEST_SHORT_S"):
    supervisor.SHORT_S = supervisor.PREFETCHED_S = float(short_s)
if jobs_max := os.environ.get("TEST_JOBS_MAX"):
    worker_process.JOBS_MAX = int(jobs_max)
if portion := os.environ.get("TEST_PORTION"):
    portions.PORTION = int(portion)
    change_items.DIVIDED_FROM = 2 * portions.PORTION
if lost_after_s := os.environ.get("TEST_LOST_AFTER_S"):
    queue.LOST_AFTER = timedelta(seconds=float(lost_after_s))


class Seconds(serializers.Serializer[Any]):
    seconds = serializers.FloatField(default=0)
    gate = serializers.CharField(default="")


class Number(serializers.Serializer[Any]):
    number = serializers.IntegerField(default=0)


class Record(Number, Seconds):
    seconds = serializers.FloatField(default=0.02)


@task(params=Number)
def echo(context: TaskContext, *, number: int = 0) -> Any:
    """Give the number back."""
    return {"number": number}


def take_time(context: TaskContext, seconds: float, gate: str = "") -> None:
    """Take so many seconds, with progress, or until the file `gate` exists."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not (gate and Path(gate).exists()):
        context.progress(1 - left / seconds, f"{left:.1f} s left\0")
        time.sleep(min(left, 0.02))


@task(params=Seconds)
def nap(context: TaskContext, *, seconds: float, gate: str = "") -> Any:
    """Take some time, with progress."""
    context.progress(0)  # a whole number, as tasks may well report
    take_time(context, seconds, gate)
    return {"attempt": context.claim.attempt}


@task(params=Record, retries=20)
def recorded(context: TaskContext, *, number: int, seconds: float, gate: str) -> Any:
    """Write each of its runs into the file RECORD, and take some time."""
    with open(os.environ["RECORD"], "a") as record:
        record.write(f"{context.job_id} {context.claim.epoch}\n")
    take_time(context, seconds, gate)
    return {"number": number, "epoch": context.claim.epoch}


@task(time_limit_s=60)
def endless_c_loop(context: TaskContext) -> Any:
    """Loop in C for ever, holding the interpreter's lock."""
    return sum(iter(int, 1))


@task(time_limit_s=1)
def too_long(context: TaskContext) -> Any:
    """Take too much time, in a way that can be interrupted."""
    time.sleep(60)


@task(time_limit_s=1)
def too_long_in_c(context: TaskContext) -> Any:
    """Loop in C, beyond the time limit."""
    return sum(iter(int, 1))


@task(time_limit_s=1)
def stopped(context: TaskContext) -> Any:
    """Stop its own process."""
    os.kill(os.getpid(), signal.SIGSTOP)


@task(retries=1)
def segfault(context: TaskContext) -> Any:
    """Read memory that is not there."""
    ctypes.string_at(0)


@task(retries=1)
def kill_itself(context: TaskContext) -> Any:
    """Die like a process that the system killed."""
    os.kill(os.getpid(), signal.SIGKILL)


@task(retries=0)
def exit_itself(context: TaskContext) -> Any:
    """Exit without a word to the supervisor."""
    os._exit(3)


@task(memory_mb=64, retries=0)
def eat_memory(context: TaskContext) -> Any:
    """Ask for more and more."""
    hoard = []
    while True:
        hoard.append(bytearray(8 * 1024 * 1024))


# Writes the id of its process, and goes on for long.
SLEEP = 'echo $$ >> "$0"; exec sleep 600'


def start_processes(context: TaskContext) -> None:
    """Start a child, an orphan in a session of its own, and a fork of this process."""
    path = f"{os.environ['RECORD']}-{context.job_id}"
    Path(path).touch()  # which is read below before any of them may have written
    subprocess.Popen(["sh", "-c", SLEEP, path])
    subprocess.run(["sh", "-c", f"setsid sh -c '{SLEEP}' $0 &", path])
    if os.fork() == 0:
        os.setsid()
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(600)
    while len(Path(path).read_text().splitlines()) < 3:
        time.sleep(0.01)


class Ending(serializers.Serializer[Any]):
    end = serializers.ChoiceField(["return", "raise", "crash", "loop"])


@task(params=Ending, retries=0, time_limit_s=60)
def leave_processes(context: TaskContext, *, end: str) -> Any:
    """Start processes that outlive their parent, and end in one of the ways."""
    start_processes(context)
    if end == "raise":
        raise ValueError(end)
    if end == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return sum(iter(int, 1)) if end == "loop" else end


@task(retries=0, time_limit_s=6)
def leave_processes_too_long(context: TaskContext) -> Any:
    """Start processes, and exceed the time limit."""
    start_processes(context)
    return sum(iter(int, 1))


@task(memory_mb=64, retries=0)
def eat_memory_in_children(context: TaskContext) -> Any:
    """Take too much memory, in processes of which none takes too much."""
    start_processes(context)
    for _ in range(8):
        if os.fork() == 0:
            hoard = os.urandom(40 * 1024 * 1024)
            time.sleep(600)
            print(len(hoard))
    time.sleep(600)


@task(retries=0)
def return_twice(context: TaskContext) -> Any:
    """Return in a fork of the process, too."""
    if os.fork() == 0:
        return "child"
    os.wait()
    return "parent"


@task(retries=1)
def raise_error(context: TaskContext) -> Any:
    """Raise an unexpected error."""
    raise ValueError("the cat sat on it")


@task()
def refuse(context: TaskContext) -> Any:
    """Fail for good, with a message."""
    raise TaskFailed("There is nothing to do.")


@task(retries=0)
def unstorable_error(context: TaskContext) -> Any:
    """Raise an error with characters that PostgreSQL does not store."""
    raise ValueError("a\0b\udc80")


@task()
def unstorable_failure(context: TaskContext) -> Any:
    """Fail for good, with characters that PostgreSQL does not store."""
    raise TaskFailed("a\0b\udc80")


@task()
def null_character(context: TaskContext) -> Any:
    """Return what PostgreSQL's JSON does not take."""
    return {"text": "a\0b"}


@task()
def large_result(context: TaskContext) -> Any:
    """Return more than a pipe takes in one piece."""
    return {"text": "x" * 100_000}


@task()
def too_large_result(context: TaskContext) -> Any:
    """Return more than a result may have."""
    return {"text": "x" * 1_000_000}


@task(retries=1)
def write_file(context: TaskContext) -> Any:
    """Write half a file and die, then write a whole one."""
    with context.file("out.txt", "text/plain") as out:
        out.write(ON_FILE.format(context.claim.attempt).encode() * 100_000)
        if context.claim.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return {"attempt": context.claim.attempt}


class Split(Seconds):
    parts = serializers.IntegerField(default=4)
    bad = serializers.IntegerField(default=-1)


@task(params=Split, may_run=is_authenticated, retries=1)
def in_parts(context: TaskContext, *, parts: int, bad: int, **time: Any) -> Any:
    """Add up the squares, each in a part of its own."""
    return Parts([{"number": n, "bad": n == bad} | time for n in range(parts)])


@in_parts.part
def square(context: TaskContext, *, number: int, bad: bool, **time: Any) -> Any:
    if bad:
        raise TaskFailed("The bad one.")
    take_time(context, **time)
    return number**2


@in_parts.merge
def add_up(context: TaskContext, results: list[int], **params: Any) -> Any:
    return {"sum": sum(results), "parts": len(results)}


@task(params=Number, may_run=has_permissions("items.add_item"))
def for_editors(context: TaskContext, *, number: int) -> Any:
    """Require a permission."""
    return number


class Mistake(serializers.Serializer[Any]):
    of = serializers.CharField()


@task(params=Mistake, may_run=is_authenticated, retries=0)
def mistaken(context: TaskContext, *, of: str) -> Any:
    """Report, or return, what the site cannot store."""
    if of == "progress":
        context.progress(None)  # type: ignore[arg-type]
    elif of == "nan":
        context.progress(float("nan"))
    elif of == "parts":
        return Parts([{"price": Decimal("1.5")}])
    elif of == "no parts":
        return Parts([])
    return {"text": r"no null character: \u0000"}
