"""Invalidation of cached responses and verified tokens when a user changes.

Each change invalidates the tag of the user, or of all groups, when it is committed.
"""

from typing import Any

from django.contrib.auth.models import Group, User
from django.contrib.auth.signals import user_logged_out
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.dispatch import receiver

from resilient_site.edge.cache.invalidation import invalidate
from resilient_site.models import ApiToken
from resilient_site.resilience.cache_control import GROUPS, user_tag


@receiver([post_save, post_delete], sender=User)
def user_changed(instance: User, **_: Any) -> None:
    invalidate(user_tag(instance.pk))


@receiver(post_delete, sender=ApiToken)
def token_revoked(instance: ApiToken, **_: Any) -> None:
    invalidate(user_tag(instance.user_id))


@receiver(user_logged_out)
def signed_out(user: User | None, **_: Any) -> None:
    if user:
        invalidate(user_tag(user.pk))


@receiver(m2m_changed, sender=User.groups.through)
@receiver(m2m_changed, sender=User.user_permissions.through)
def permissions_changed(instance: Any, reverse: bool, pk_set: Any, **_: Any) -> None:
    if not reverse:
        invalidate(user_tag(instance.pk))
    elif pk_set is None:  # all members at once, whom the signal does not name
        invalidate(GROUPS)
    else:
        invalidate(*map(user_tag, pk_set))


@receiver(post_delete, sender=Group)
@receiver(m2m_changed, sender=Group.permissions.through)
def groups_changed(**_: Any) -> None:
    invalidate(GROUPS)
