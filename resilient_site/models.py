from __future__ import annotations

import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models, transaction
from django.utils import timezone
from knox.models import AbstractAuthToken, AuthTokenManager

from resilient_site.errors import Conflict

MAX_TOKENS = 50


class TooManyTokens(Conflict):
    code = "too_many_tokens"
    detail = (
        f"A person can have {MAX_TOKENS} valid tokens. Revoke one that is not used."
    )


class ApiTokenManager(AuthTokenManager):  # type: ignore[misc]
    @transaction.atomic
    def create(self, user: User, *args: Any, **options: Any) -> Any:
        """Return the token and its text. Raises TooManyTokens."""
        User.objects.select_for_update().get(pk=user.pk)  # one at a time
        is_valid = models.Q(expiry=None) | models.Q(expiry__gt=timezone.now())
        if self.filter(is_valid, user=user).count() >= MAX_TOKENS:
            raise TooManyTokens
        return super().create(user, *args, **options)


class ApiToken(AbstractAuthToken):  # type: ignore[misc]
    """API token of a user, stored as a hash only."""

    name = models.CharField(max_length=100, blank=True)

    objects = ApiTokenManager()

    class Meta:
        verbose_name = "API token"
        indexes = [models.Index(fields=["user", "created"], name="apitoken_of_user")]

    def __str__(self) -> str:
        return f"{self.name or 'token'} {self.token_key}… of {self.user_id}"


class Operation(models.Model):
    """Permissions of operators; there is no table."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_status_details", "Can view errors and figures on the status page"),
            ("override_breakers", "Can force circuit breakers open or closed"),
        ]

    def __str__(self) -> str:
        return "operation"


def random_epoch() -> str:
    return secrets.token_hex(8)


class Epoch(models.Model):
    """The id of the database's history: a new one when an older dump is put back.

    There is one row. What clients keep of the database (a position in the change feed,
    say) holds for one epoch only.
    """

    ONLY = 1

    id = models.SmallIntegerField(primary_key=True, default=ONLY)
    value = models.CharField(max_length=32, default=random_epoch)
    # Counts how often all that was cached has been made void within the epoch.
    cache_generation = models.PositiveIntegerField(default=0, db_default=0)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.value

    @classmethod
    def current(cls) -> str:
        """Return the epoch; read it before the data that are given out under it."""
        return cls.objects.values_list("value", flat=True).first() or ""

    @property
    def of_caches(self) -> str:
        """What is cached holds as long as this is the same."""
        generation = self.cache_generation
        return f"{self.value}.{generation}" if generation else self.value


class IdempotencyRecord(models.Model):
    """Stored response to a write with an Idempotency-Key."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="+",
        db_index=False,
    )
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    headers = models.JSONField()  # pairs of name and value, in their order
    body = models.BinaryField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "key"], name="idempotencyrecord_once_per_key"
            ),
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotencyrecord_by_age")]

    def __str__(self) -> str:
        return f"{self.status} for {self.owner_id} under {self.key}"
