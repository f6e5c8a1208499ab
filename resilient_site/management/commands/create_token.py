import re
from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from resilient_site.models import ApiToken, TooManyTokens

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if not match:
        raise ArgumentTypeError("a number with m, h or d, such as 30d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


class Command(BaseCommand):
    help = "Create an API token and print only the token on standard output."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--ttl", type=duration, default="90d", help="how long it is valid: 30d, 12h"
        )
        parser.add_argument("--name", default="", help="the program that will use it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            user = User.objects.get(username=options["username"])
        except User.DoesNotExist:
            raise CommandError(f"There is no user “{options['username']}”.") from None
        if not user.is_active:
            raise CommandError(f"The user “{user.username}” is not active.")
        try:
            _, token = ApiToken.objects.create(
                user, expiry=options["ttl"], name=options["name"][:100]
            )
        except TooManyTokens as error:
            raise CommandError(error.detail) from None
        self.stdout.write(token)
