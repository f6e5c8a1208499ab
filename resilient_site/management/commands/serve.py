"""Start the site: migrate the database, then run web and compute processes."""

import errno
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from resilient_site.operations import supervision
from resilient_site.operations.supervision import Program

ADMINISTRATOR = "admin"
BACKLOG = 2048  # gunicorn's own
WEB_STOP_S = 25  # longer than graceful_timeout in gunicorn.conf.py
COMPUTE_END_S = 5  # for what follows the grace time
EVENTS_STOP_S = 10  # longer than it waits for a broker that does not answer


class Command(BaseCommand):
    help = "Serve the site and run its jobs. Creates the embedded database if needed."
    requires_system_checks = []  # the port is checked first

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8000"))
        parser.add_argument(
            "--no-compute",
            dest="compute",
            action="store_false",
            help="the web processes alone; `manage.py compute` runs elsewhere",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = options["host"], options["port"]
        with listen(host, port) as listener:
            with in_a_child(self._prepare) if settings.EMBEDDED else nullcontext():
                self.check()
                load_web()
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self.stdout.write(f"Serving on http://{address}/ - Ctrl-C stops it.")
            sys.stdout.flush()
            # For Python processes that ours start.
            os.environ["PYTHONPATH"] = python_path()
            if not options["compute"]:
                supervision.set_name("gunicorn")
                run_web(listener)
            # In the process of a program, what it is.
            elif run_program := supervision.supervise(programs(listener)):
                run_program()

    def _prepare(self) -> None:
        """Create the database, the sample and the administrator if they are missing."""
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            call_command("migrate", verbosity=0)
        users = get_user_model().objects
        if users.exists():
            return
        call_command("load_sample", stdout=self.stdout)
        # Last, so that the next start completes one that was interrupted.
        password = secrets.token_urlsafe(12)
        users.create_superuser(ADMINISTRATOR, password=password)
        self.stdout.write(
            f"Administrator: {ADMINISTRATOR}   Password: {password}\n"
            "Keep it: it is shown only now (manage.py changepassword makes a new one)."
        )


@contextmanager
def in_a_child(function: Callable[[], None]) -> Iterator[None]:
    """Call a function in a child process, beside the block; exit if it fails.

    What it loads is then not kept by all processes of the site.
    """
    parent = os.getpid()
    if not (child := os.fork()):
        supervision.end_with(parent)
        function()
        sys.exit()
    try:
        yield
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))


def load_web() -> None:
    """Load what the web processes need, once for all of them."""
    import_module("gunicorn.app.wsgiapp")
    import_module("resilient_site.edge.worker")
    import_module("resilient_site.asgi")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, or raise CommandError."""
    is_ipv6 = ":" in host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    try:
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=is_ipv6
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandError(
                f"Port {port} is taken. Stop what uses it, or choose another "
                f"one: make run PORT={port + 1}"
            ) from None
        raise CommandError(
            f"Cannot listen on {host}:{port}: {error.strerror}."
        ) from None
    except OverflowError:
        raise CommandError(f"{port} is not a port: 1 to 65535.") from None


def programs(listener: socket.socket) -> list[Program]:
    stops_s = {"compute": settings.COMPUTE_GRACE_S + COMPUTE_END_S}
    if settings.EVENTS_URL:
        stops_s["relay_events"] = EVENTS_STOP_S
    return [
        Program("gunicorn", partial(run_web, listener), WEB_STOP_S),
        *(Program(it, partial(run, listener, it), stops_s[it]) for it in stops_s),
    ]


def run_web(listener: socket.socket) -> None:
    """Run gunicorn in this process."""
    from gunicorn import __main__ as main
    from gunicorn.app import wsgiapp

    config = settings.BASE_DIR / "deploy" / "gunicorn.conf.py"
    bind = f"fd://{listener.detach()}"  # which gunicorn closes
    # What it starts itself by at SIGUSR2.
    sys.argv = [str(main.__file__), "-c", str(config), "-b", bind]
    wsgiapp.run()


def run(listener: socket.socket, command: str) -> None:
    """Run a management command in this process."""
    listener.close()  # the port is free as soon as the web has stopped
    sys.argv = [str(settings.BASE_DIR / "manage.py"), command]
    call_command(command)


def python_path() -> str:
    """Return a PYTHONPATH with our packages, wherever this was started."""
    path = [str(settings.BASE_DIR), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, path))
