"""Start the site: the database brought up to date, then web and compute processes."""

import errno
import os
import secrets
import shlex
import socket
import sys
from typing import Any, NoReturn

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

ADMINISTRATOR = "admin"
BACKLOG = 2048  # gunicorn's own


class Command(BaseCommand):
    help = (
        "Serve the site and run its jobs. Set up, if need be, on the embedded default."
    )
    requires_system_checks = []  # not before the port is known to be free

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
            self.check()
            if settings.EMBEDDED:
                self._prepare()
            connection.close()
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self.stdout.write(f"Serving on http://{address}/ - Ctrl-C stops it.")
            sys.stdout.flush()
            if options["compute"]:
                supervise(listener)
        become(web_command(address))

    def _prepare(self) -> None:
        """Make database, sample and administrator, as far as they are not there."""
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            call_command("migrate", verbosity=0)
        if User.objects.exists():
            return
        call_command("load_sample", stdout=self.stdout)
        # Last, so that a start that was broken off is made up for by the next one.
        password = secrets.token_urlsafe(12)
        User.objects.create_superuser(ADMINISTRATOR, password=password)
        self.stdout.write(
            f"Administrator: {ADMINISTRATOR}   Password: {password}\n"
            "Keep it: it is shown only now (manage.py changepassword makes a new one)."
        )


def listen(host: str, port: int) -> socket.socket:
    """Raise CommandError if nothing can listen there, before anything is done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CommandError(
                f"Port {port} is taken. Stop what uses it, or choose another "
                f"one: make run PORT={port + 1}"
            ) from None
        raise CommandError(
            f"Cannot listen on {host}:{port}: {error.strerror}."
        ) from None
    except OverflowError:
        listener.close()
        raise CommandError(f"{port} is not a port: 1 to 65535.") from None
    return listener


def web_command(bind: str) -> list[str]:
    config = settings.BASE_DIR / "deploy" / "gunicorn.conf.py"
    return [sys.executable, "-m", "gunicorn", "-c", str(config), "-b", bind]


def supervise(listener: socket.socket) -> NoReturn:
    """Have supervisord run all; it hands the socket on to the web."""
    from resilient_site.operations.supervision import SOCKET_FD

    os.dup2(listener.fileno(), SOCKET_FD)
    os.set_inheritable(SOCKET_FD, True)  # which dup2 leaves out if they are the same
    manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
    os.environ["LOG_FORMAT"] = settings.LOG_FORMAT
    os.environ["SERVE_WEB"] = shlex.join(web_command(f"fd://{SOCKET_FD}"))
    os.environ["SERVE_COMPUTE"] = shlex.join([*manage, "compute"])
    os.environ["SERVE_EVENTS"] = shlex.join([*manage, "relay_events"])
    os.environ["SERVE_HAS_EVENTS"] = "true" if settings.EVENTS_URL else "false"
    os.environ["SERVE_COMPUTE_STOP_S"] = str(settings.COMPUTE_GRACE_S + 5)
    config = settings.BASE_DIR / "deploy" / "supervisord.conf"
    become(
        [
            sys.executable,
            "-m",
            "resilient_site.operations.supervision",
            "-c",
            str(config),
        ]
    )


def become(command: list[str]) -> NoReturn:
    """Let the command take this process over, and with it every signal."""
    # It finds our packages, wherever this was started.
    path = [str(settings.BASE_DIR), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell wanted
