"""Authentication by API token, and what the REST API permits by default."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from rest_framework import authentication, permissions
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.models import ApiToken


class TokenAuthentication(authentication.TokenAuthentication):
    def authenticate_credentials(self, key: str) -> tuple[User, ApiToken]:
        token = verified_tokens().verify_token(key.encode())
        if token is None:
            raise AuthenticationFailed("The token is unknown, revoked or expired.")
        return token.user, token


class BearerAuthentication(TokenAuthentication):
    """The same by another name, which most clients know (RFC 6750)."""

    keyword = "Bearer"


class ReadOnly(permissions.BasePermission):
    """Reading by any method: for everyone, unless the site is private."""

    def has_permission(self, request: Request, view: Any) -> bool:
        is_authenticated = bool(request.user and request.user.is_authenticated)
        return settings.PUBLIC_READ or is_authenticated


class ReadOrWrite(permissions.DjangoModelPermissionsOrAnonReadOnly):
    """Reading for everyone, unless the site is private; writing by permission.

    The default of every view: one that is open in a private site has to say so.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        is_read = request.method in permissions.SAFE_METHODS
        if is_read or not hasattr(view, "queryset"):
            is_public = is_read and settings.PUBLIC_READ
            return is_public or bool(request.user and request.user.is_authenticated)
        return super().has_permission(request, view)
