"""Start the site: the database brought up to date, then the web processes."""

import errno
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

ADMINISTRATOR = "admin"


class Command(BaseCommand):
    help = "Serve the site with gunicorn. Set up, if need be, on the embedded default."
    requires_system_checks = []  # not before the port is known to be free

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8000"))

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = options["host"], options["port"]
        refuse_taken_port(host, port)
        self.check()
        if settings.EMBEDDED:
            self._prepare()
        connection.close()
        self.stdout.write(f"Serving on http://{host}:{port}/ - Ctrl-C stops it.")
        sys.stdout.flush()
        config = Path(settings.BASE_DIR, "deploy", "gunicorn.conf.py")
        bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # Gunicorn takes this process over, and with it every signal.
        os.execv(  # noqa: S606 - our own interpreter, no shell wanted
            sys.executable,
            [sys.executable, "-m", "gunicorn", "-c", str(config), "-b", bind],
        )

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


def refuse_taken_port(host: str, port: int) -> None:
    """Raise CommandError if nothing can listen there, before anything is done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
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
