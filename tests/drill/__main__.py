"""Chaos drill: inject faults under load, and check every response."""

import os
import sys
from argparse import ArgumentParser

import django


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")
    django.setup()
    from tests.drill import command

    parser = ArgumentParser(
        prog="python -m tests.drill",
        description=(
            "Start a private site as in production, put load on it, inject one fault "
            "after another, and check every response. Exits "
            "with 1 if an objective of deploy/objectives.toml is missed."
        ),
    )
    command.add_arguments(parser)
    try:
        kept = command.drill(
            vars(parser.parse_args()), lambda text: print(text, flush=True)
        )
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
