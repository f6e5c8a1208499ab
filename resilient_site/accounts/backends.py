"""Authentication backends around Django's own: two slow down guesses at one name.

django-axes locks a name at one address. The policy `sign-in-name` bounds the failures
of a name from all addresses together; browsers that have signed in with that name are
excepted, or anyone could keep its owner out.
"""

from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db.models import Model
from django.http import HttpRequest, HttpResponse

from resilient_site.errors import LockedOut
from resilient_site.ratelimit.middleware import count_by_name

POLICY = "sign-in-name"
DEVICE_MAX_AGE_S = 365 * 24 * 3600
# Where ModelBackend keeps them at the user, for as long as a request.
KNOWN_PERMISSIONS = "_perm_cache"


class NameLimit:
    """Rejects an attempt where too many have failed. Runs before Django's backend."""

    def authenticate(
        self, request: HttpRequest | None, username: str = "", **options: Any
    ) -> None:
        if request is None or not username or _is_known_device(request, username):
            return
        key = f"name {username}"
        status = count_by_name(request, POLICY, key, increment=False)
        if status and status.count >= status.policy.quota:
            raise LockedOut(retry_after_s=status.reset_s)


class Permissions:
    """Reads all permissions of a person by one query, where ModelBackend makes two.

    Every page asks for them, and waits for each query while the database is far. Runs
    before Django's backend, which takes what is known of a person already.
    """

    def authenticate(self, request: HttpRequest | None) -> None:
        """Take no credentials: Django asks no backend that cannot be called so."""

    def has_perm(
        self, user_obj: User | AnonymousUser, perm: str, obj: Model | None = None
    ) -> bool:
        return perm in self.get_all_permissions(user_obj, obj)

    def has_module_perms(self, user_obj: User | AnonymousUser, app_label: str) -> bool:
        start = f"{app_label}."
        return any(
            name.startswith(start) for name in self.get_all_permissions(user_obj)
        )

    def get_all_permissions(
        self, user_obj: User | AnonymousUser, obj: Model | None = None
    ) -> set[str]:
        if not user_obj.is_active or user_obj.is_superuser or obj is not None:
            return set()
        known: set[str] | None = getattr(user_obj, KNOWN_PERMISSIONS, None)
        if known is None:
            all_names = Permission.objects.order_by().values_list(
                "content_type__app_label", "codename"
            )
            of_groups = all_names.filter(group__user=user_obj)
            rows = all_names.filter(user=user_obj).union(of_groups).order_by()
            known = {f"{app}.{name}" for app, name in rows}
            setattr(user_obj, KNOWN_PERMISSIONS, known)
        return known


class NameFailures:
    """Counts a failed attempt. Runs last, so only if the password was wrong."""

    def authenticate(
        self, request: HttpRequest | None, username: str = "", **options: Any
    ) -> None:
        if request is not None and username:
            count_by_name(request, POLICY, f"name {username}")


def remember_device(response: HttpResponse, username: str) -> None:
    """Have the browser show later that it has signed in with this name."""
    response.set_signed_cookie(
        settings.DEVICE_COOKIE_NAME,
        _digest(username),
        salt=POLICY,
        max_age=DEVICE_MAX_AGE_S,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _is_known_device(request: HttpRequest, username: str) -> bool:
    known = request.get_signed_cookie(
        settings.DEVICE_COOKIE_NAME, default="", salt=POLICY, max_age=DEVICE_MAX_AGE_S
    )
    return known == _digest(username)


def _digest(username: str) -> str:
    # A header has no place for all letters of a name.
    return sha256(username.encode()).hexdigest()
