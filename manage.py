#!/usr/bin/env python
"""Django's command line for this project; a wrong setting is reported in one line."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import InterfaceError, OperationalError
    from environs import EnvError

    # Its processes share their metrics: prometheus_client has to know from the start.
    if sys.argv[1:2] == ["serve"]:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", "")
    # What it writes is for its user alone; nginx reads static files.
    if "collectstatic" not in sys.argv:
        os.umask(0o077)
    try:
        execute_from_command_line(sys.argv)
    except (ImproperlyConfigured, EnvError) as error:
        sys.exit(f"Configuration: {error}")
    except ValueError as error:
        # As environs raises it for a file that cannot be read.
        if not isinstance(error.__cause__, OSError):
            raise
        sys.exit(f"Configuration: {error}")
    except (OperationalError, InterfaceError) as error:
        sys.exit(f"The database does not answer: {error}")
    except BrokenPipeError:
        # What reads the output has ended: there is nothing left to write it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
