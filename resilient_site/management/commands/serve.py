"""Start the site: migrate the database, then run web and compute processes."""

import errno
import os
import secrets
import shlex
import socket
import sys
from functools import cache
from typing import Any, NoReturn

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from resilient_site.observability import multiprocess
from resilient_site.operations import hold

ADMINISTRATOR = "admin"
BACKLOG = 2048  # gunicorn's own


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
            self.check()
            if settings.EMBEDDED:
                self._prepare()
            connection.close()
            multiprocess.share(settings.DATA_DIR)
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self.stdout.write(f"Serving on http://{address}/ - Ctrl-C stops it.")
            sys.stdout.flush()
            if options["compute"]:
                supervise(listener)
        become(web_command(address))

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


def web_command(bind: str) -> list[str]:
    config = settings.BASE_DIR / "deploy" / "gunicorn.conf.py"
    return [sys.executable, "-m", "gunicorn", "-c", str(config), "-b", bind]


def supervise(listener: socket.socket) -> NoReturn:
    """Become what runs supervisord. Ctrl-C and a closed terminal stop it."""
    manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
    environment = {
        "LOG_FORMAT": settings.LOG_FORMAT,
        "PYTHONPATH": python_path(),
        "SERVE_PIDFILE": str(settings.DATA_DIR / "supervisord.pid"),
        "SERVE_WEB": shlex.join(tied(web_command("fd://3"))),
        "SERVE_COMPUTE": shlex.join(tied([*manage, "compute"])),
        "SERVE_COMPUTE_STOP_S": str(settings.COMPUTE_GRACE_S + 5),
        "SERVE_EVENTS": shlex.join(tied([*manage, "relay_events"])),
        "SERVE_HAS_EVENTS": "true" if settings.EVENTS_URL else "false",
    }
    config = settings.BASE_DIR / "deploy" / "supervisord.conf"
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
    if not os.geteuid():
        command += ["-u", "root"]  # else it warns of being root
    os.environ |= environment
    os.dup2(listener.fileno(), 0)
    listener.close()
    sh = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 5>&2 </dev/null', "sh"]
    os.execv(  # noqa: S606 - our own interpreter, no shell wanted
        sys.executable, [sys.executable, "-IS", hold.__file__, *sh, *tied(command)]
    )


@cache
def setpriv() -> list[str]:
    """Return the command that has Linux end a process with its parent, or []."""
    command = ["setpriv", "--pdeathsig", "TERM"]
    check = shlex.join([*command, "true"]) + " 2>/dev/null"
    return [] if os.system(check) else command  # noqa: S605 - nothing from outside


def tied(command: list[str]) -> list[str]:
    """Return the command as one that gets SIGTERM when its parent has died."""
    return [*setpriv(), *command]


def python_path() -> str:
    """Return a PYTHONPATH with our packages, wherever this was started."""
    path = [str(settings.BASE_DIR), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, path))


def become(command: list[str]) -> NoReturn:
    """Replace this process by the command, which then gets every signal."""
    os.environ["PYTHONPATH"] = python_path()
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell wanted
