from __future__ import annotations

from datetime import datetime

from django.db import models
from knox.models import AbstractAuthToken


class ApiToken(AbstractAuthToken):  # type: ignore[misc]
    """A key to the REST API: only its hash is kept, so it is shown just once."""

    name = models.CharField(max_length=100, blank=True)

    class Meta:
        verbose_name = "API token"
        indexes = [models.Index(fields=["user", "created"], name="apitoken_of_user")]

    def __str__(self) -> str:
        return f"{self.name or 'token'} {self.token_key}… of {self.user_id}"

    def is_expired(self, now: datetime) -> bool:
        return self.expiry is not None and self.expiry <= now
