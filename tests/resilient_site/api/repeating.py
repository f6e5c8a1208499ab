"""Clients that repeat writes, for the tests of the Idempotency-Key."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from rest_framework.test import APIClient

ITEMS = "/api/v1/items/"
KEY = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}
OF_ONE_REQUEST = ("X-Request-ID", "Idempotent-Replayed", "RateLimit")


def client_of(user: User) -> APIClient:
    client = APIClient()
    client.force_authenticate(user)
    return client


def content(answer: Any) -> tuple[int, dict[str, str], bytes]:
    headers = {n: v for n, v in answer.items() if n not in OF_ONE_REQUEST}
    return answer.status_code, headers, answer.content


def is_replayed(answer: Any) -> bool:
    return answer.get("Idempotent-Replayed") == "true"


def twice(send: Callable[[], Any]) -> Any:
    """Send a request twice; return the first response, which is replayed."""
    first, again = send(), send()
    assert not is_replayed(first)
    assert is_replayed(again)
    assert content(again) == content(first)
    return first
