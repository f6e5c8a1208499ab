"""The web process beside its peers, on this machine: reads and writes of one item.

    make bench-web [ARGS=ROUNDS]

One web process each, and wrk, which asks as fast as it is answered. What is compared
runs in turns, and the ratios are taken round by round. Prints Markdown.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.load import report
from tests.load.compute import in_turns
from tests.load.report import ratios
from tests.load.stand import Stand
from tests.private_server import free_port
from tests.running import MAKE_EDITOR, ROOT, Site

ROUNDS = 5
CONNECTIONS = 16
TURN_S = 2
# The three that are compared have an item that is about as large.
ITEM = {"name": "Germany", "description": "A country"}
POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"name": "Germany", "description": "A country"}'
"""


def rate(url: str, token: str = "", script: Path | None = None) -> float:
    """Return the answers per second. Raises RuntimeError if one is an error."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{TURN_S}s"]
    if token:
        command += ["-H", f"Authorization: Token {token}"]
    if script:
        command += ["-s", str(script)]
    told = subprocess.run([*command, url], check=True, capture_output=True, text=True)
    if "Non-2xx" in told.stdout or "Socket errors" in told.stdout:
        raise RuntimeError(f"{url}:\n{told.stdout}")
    found = re.search(r"Requests/sec: +([0-9.]+)", told.stdout)
    assert found, told.stdout
    return float(found[1])


class Ours:
    def __init__(self, stand: Stand, stack: ExitStack) -> None:
        env = stand.on_postgres("ours", WEB_PROCESSES="1")
        site = self.site = Site(Path(env["DATA_DIR"]), **env)
        assert site.manage("shell", "-c", MAKE_EDITOR).returncode == 0
        self.token = site.manage("create_token", "edith").stdout.strip()
        stack.callback(site.stop)
        site.start("--no-compute")
        self.items = f"http://127.0.0.1:{site.port}/api/v1/items/"
        token = {"Authorization": f"Token {self.token}"}
        made = site.request("POST", "/api/v1/items/", ITEM | {"id": "1"}, token)
        assert made.status == 201
        self.item = self.items + "1"


class FastAPI:
    def __init__(self, stand: Stand, stack: ExitStack) -> None:
        port = str(free_port())
        command = ["-m", "uvicorn", "tests.load.fastapi_peer:app", "--port", port]
        quiet = ["--no-access-log"]
        ready = "Uvicorn running"
        stack.enter_context(stand.program(stand.env(), *command, *quiet, ready=ready))
        self.items = f"http://127.0.0.1:{port}/items/"
        self.item = self.items + "1"
        body = '{"id": "1", "name": "Germany", "description": "A country"}'
        header = "Content-Type: application/json"
        command = ["curl", "-fsS", "-o", "/dev/null", "-H", header, "-d", body]
        subprocess.run([*command, self.items], check=True)


class Plain:
    """A ModelViewSet with token authentication, under gunicorn's threads."""

    def __init__(self, stand: Stand, stack: ExitStack) -> None:
        stand.create_database("plain")
        env = stand.env(
            DATABASE_URL=stand.postgres.url("plain"),
            DJANGO_SETTINGS_MODULE="tests.load.drf_peer.settings",
        )
        self.token = subprocess.run(
            [sys.executable, "-m", "tests.load.drf_peer.prepare"],
            cwd=ROOT, env=env, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        port = str(free_port())
        command = ["-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread"]
        command += ["--threads", "8", "tests.load.drf_peer.wsgi"]
        stack.enter_context(stand.program(env, *command, ready="Booting worker"))
        self.items = f"http://127.0.0.1:{port}/items/"
        self.item = self.items + "1/"


def measure(stand: Stand, rounds: int) -> Mapping[str, list[float]]:
    script = stand.folder / "post.lua"
    script.write_text(POST)
    with ExitStack() as stack:
        ours, fastapi = Ours(stand, stack), FastAPI(stand, stack)
        plain = Plain(stand, stack)
        turns: dict[str, Callable[[], float]] = {
            "ours, hot": partial(rate, ours.item),
            "fastapi, hot": partial(rate, fastapi.item),
            "ours, signed in": partial(rate, ours.item, ours.token),
            "plain, signed in": partial(rate, plain.item, plain.token),
            "ours, create": partial(rate, ours.items, ours.token, script),
            "plain, create": partial(rate, plain.items, plain.token, script),
        }
        for warm_up in turns.values():
            warm_up()
        return in_turns(rounds, turns)


def tell(values: Mapping[str, list[float]]) -> None:
    def ratio(what: str, peer: str) -> list[float]:
        return ratios(values[f"ours, {what}"], values[f"{peer}, {what}"])

    report.over_rounds(
        f"answers per second, 1 web process, {CONNECTIONS} connections",
        [
            ("GET of an item, nobody signed in: ours", values["ours, hot"], ""),
            ("the same: FastAPI and a dictionary", values["fastapi, hot"], ""),
            ("**ours : FastAPI**", ratio("hot", "fastapi"), "≥ 3"),
            ("GET of an item, by token: ours", values["ours, signed in"], ""),
            ("the same: ModelViewSet", values["plain, signed in"], ""),
            ("**ours : ModelViewSet**", ratio("signed in", "plain"), "≥ 3"),
            ("POST of an item, on the disk: ours", values["ours, create"], ""),
            ("the same: ModelViewSet", values["plain, create"], ""),
            ("**ours : ModelViewSet**", ratio("create", "plain"), "≥ 1"),
        ],
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed.")
    # make passes SIGTERM on: end as for Ctrl-C, so that everything ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    print(f"{report.machine()}\n\n{rounds} rounds", flush=True)
    with Stand() as stand:
        tell(measure(stand, rounds))
    print(f"\n{time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
