"""Authentication by API token: `Authorization: Token …` or `Bearer …`."""

from django.contrib.auth.models import User
from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed

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
