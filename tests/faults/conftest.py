"""The site as in production, on servers of its own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.nginx import Nginx
from tests.drill.stack import Stack
from tests.servers import RabbitMQ

SETTINGS = {
    # A busy machine is none of the faults, and a wait for a server that hangs must not
    # end for these reasons.
    "ADMISSION_PATIENCE_ANONYMOUS_S": "60",
    "ADMISSION_PATIENCE_AUTHENTICATED_S": "60",
    "ADMISSION_PATIENCE_WRITE_S": "60",
    "DEADLINE_READ_S": "120",
    "DEADLINE_WRITE_S": "120",
    "HEARTBEAT_TIMEOUT_S": "3",
    "LAST_KNOWN_REDIS_BYTES": str(2**35),  # so that no two share a slot
    "LAST_KNOWN_TIMEOUT_S": "10",
}


class PatientStack(Stack):
    def environment(self) -> dict[str, str]:
        return super().environment() | SETTINGS


def find_no_broker() -> str:
    raise LookupError("no RabbitMQ on this machine")


@pytest.fixture(scope="session")
def stack() -> Iterator[PatientStack]:
    """Shared: after each fault all is as before, or a test has failed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # for PostgreSQL, which does not run as root
    stack = PatientStack()
    with pytest.MonkeyPatch.context() as patched:
        # Its start would take the most time.
        patched.setattr(RabbitMQ, "find", staticmethod(find_no_broker))
        # A process of a busy machine has not failed.
        patched.setattr(Nginx, "read_timeout_s", 60)
        patched.setattr("tempfile.tempdir", str(folder))
        running = stack.running()
        running.__enter__()
    try:
        yield stack
    finally:
        print(stack.output()[-5_000:])  # shown when a test has failed
        running.__exit__(None, None, None)
    folder.rmdir()  # it has left nothing
