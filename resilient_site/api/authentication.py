"""Authentication by API token: `Authorization: Token …`."""

from django.contrib.auth.models import User
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from resilient_site.accounts.verified_tokens import parse_token, verified_tokens
from resilient_site.models import ApiToken


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        header = get_authorization_header(request)
        token = parse_token(header) if header else None
        if token is None:
            return None
        verified = verified_tokens().verify_token(token)
        if verified is None:
            raise AuthenticationFailed("The token is unknown, revoked or expired.")
        return verified.user, verified

    def authenticate_header(self, request: Request) -> str:
        return "Token"
