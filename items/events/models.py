from __future__ import annotations

from django.db import models

TROUBLE_MAX = 200


class EventRelay(models.Model):
    """State of the publishing: position in the change log, and the lease. One row.

    The position is written when the broker has confirmed everything up to it. The
    relay that holds the lease has to renew it, or another one takes over.
    """

    ONLY = 1

    id = models.SmallIntegerField(primary_key=True, default=ONLY)
    transaction = models.BigIntegerField(default=0)
    change = models.BigIntegerField(default=0)
    # Ids of changes after the position that are published already.
    ahead = models.JSONField(default=list)
    holder = models.CharField(max_length=100, blank=True)
    held_until = models.DateTimeField(null=True)
    trouble = models.CharField(max_length=TROUBLE_MAX, blank=True)

    class Meta:
        app_label = "items"
        default_permissions = ()

    def __str__(self) -> str:
        return f"Published up to change {self.change}"

    @property
    def position(self) -> tuple[int, int]:
        return self.transaction, self.change
