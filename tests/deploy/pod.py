"""The web processes as a pod runs them: as another user, on a read-only root."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Self

import pytest

from tests.running import ROOT, Site

# A mount namespace whose root is read-only, below /mnt what the image has. The code and
# Python may lie in a home that others cannot enter.
ISOLATE = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    mkdir /mnt/${1%%=*}
    mount --bind "${1#*=}" /mnt/${1%%=*}
    mount -o remount,bind,ro /mnt/${1%%=*}
    shift
done
shift
mkdir /mnt/data
mount -o remount,bind,ro /
mount -t tmpfs -o size=64m,mode=777 tmpfs /mnt/data
mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp
mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm
mount -o remount,ro /mnt
cd /mnt/app
exec setpriv --reuid=%(user)s --regid=%(user)s --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all "$@"
"""
USER = re.findall(r"^USER (\d+):", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)


class Pod(Site):
    """Writes to empty file systems in memory alone: DATA_DIR, /tmp and /dev/shm."""

    def __init__(self, output: Path, **env: str) -> None:
        super().__init__(Path("/mnt/data"), **env)
        self.output_path = output
        self.env |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/", "TMPDIR": "/tmp"}
        self.env["PYTHONPATH"] = "/mnt/app:/mnt/app/tests/production:/mnt/packages"
        self.env["LD_LIBRARY_PATH"] = "/mnt/python/lib"
        del self.env["PROMETHEUS_MULTIPROC_DIR"]

    def isolated(self, *command: str) -> list[str]:
        """Return the command of Python with these arguments; skips where it cannot be.

        That is where this process may make no mount namespace.
        """
        parts = {
            "app": str(ROOT),
            "python": sys.base_prefix,
            "packages": sysconfig.get_path("purelib"),
        }
        python = Path(os.path.realpath(sys.executable)).relative_to(sys.base_prefix)
        given = [f"{name}={path}" for name, path in parts.items()]
        isolate = ["sh", "-euc", ISOLATE % {"user": USER[-1]}, "sh", *given, "--"]
        prefix = ["unshare", "--mount", *isolate]
        try:
            check = [*prefix, "true"]
            subprocess.run(check, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "").strip() or error
            pytest.skip(f"no mount namespaces here: {why}")
        return [*prefix, f"/mnt/python/{python}", *command]

    def start(self) -> Self:  # type: ignore[override]
        """Start it as deploy/kubernetes/base/web.yaml does."""
        bind = f"{self.host}:{self.port}"
        command = "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "-b", bind
        with self.output_path.open("ab") as output:
            return self.run(self.isolated(*command), stdout=output, stderr=output)

    def start_worker(self) -> Self:
        """Start the pool of jobs as workers.yaml does."""
        with self.output_path.open("ab") as output:
            self.process = subprocess.Popen(
                self.isolated("manage.py", "compute"),
                env=self.env, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        return self
