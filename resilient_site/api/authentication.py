"""Authentication by API token: `Authorization: Token …` or `Bearer …`."""

from typing import Any

from django.contrib.auth.models import User
from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.models import ApiToken


class TokenAuthentication(authentication.TokenAuthentication):
    def authenticate(self, request: Request) -> Any:
        scheme = authentication.get_authorization_header(request).split(b" ", 1)[0]
        # The class of the library compares with one name.
        self.keyword = "Bearer" if scheme.lower() == b"bearer" else "Token"
        return super().authenticate(request)

    def authenticate_header(self, request: Request) -> str:
        return "Token"

    def authenticate_credentials(self, key: str) -> tuple[User, ApiToken]:
        token = verified_tokens().verify_token(key.encode())
        if token is None:
            raise AuthenticationFailed("The token is unknown, revoked or expired.")
        return token.user, token
