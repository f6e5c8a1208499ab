from __future__ import annotations

from django.db import models

TROUBLE_MAX = 200


class EventRelay(models.Model):
    """How far the change log is published, and by whom: the one row there is.

    The place is written when the broker has confirmed all up to it. Who holds the row
    has to renew that, or another relay goes on.
    """

    ONLY = 1

    id = models.SmallIntegerField(primary_key=True, default=ONLY)
    transaction = models.BigIntegerField(default=0)
    change = models.BigIntegerField(default=0)
    # Ids of changes behind the place that are published already.
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
