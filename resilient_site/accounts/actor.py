from dataclasses import dataclass
from typing import Self

from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from rest_framework.request import Request


@dataclass(frozen=True)
class Actor:
    """The author of a change, as the change log and the jobs record it."""

    user: User | None
    name: str

    @classmethod
    def from_request(cls, request: HttpRequest | Request) -> Self:
        user = request.user
        if isinstance(user, AnonymousUser):
            return cls(None, "anonymous")
        return cls(user, user.get_username())
