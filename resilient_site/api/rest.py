"""How the REST API reads and writes: orjson, and tokens that are stored hashed."""

from collections.abc import Collection
from typing import Any

import orjson
from django.contrib.auth.models import User
from django.utils.cache import patch_vary_headers
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, ParseError
from rest_framework.negotiation import (
    BaseContentNegotiation,
    DefaultContentNegotiation,
)
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.utils.urls import replace_query_param

from resilient_site.accounts.verified_tokens import parse_token, verified_tokens
from resilient_site.api.keyset import Page
from resilient_site.models import ApiToken


class JSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Any = None,
    ) -> bytes:
        return b"" if data is None else orjson.dumps(data, option=orjson.OPT_UTC_Z)


class JSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Any = None
    ) -> Any:
        try:
            return orjson.loads(stream.read())
        except orjson.JSONDecodeError as error:
            raise ParseError(f"The body is not JSON: {error}") from error


class TokenAuthentication(BaseAuthentication):
    """Authentication by `Authorization: Token …`."""

    keyword = "Token"

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        token = parse_token(get_authorization_header(request))
        if token is None:
            return None
        verified = verified_tokens().verify_token(token)
        if verified is None:
            raise AuthenticationFailed("The token is unknown, revoked or expired.")
        return verified.user, verified

    def authenticate_header(self, request: Request) -> str:
        return self.keyword


class AlwaysFirstRenderer(BaseContentNegotiation):
    """Answer JSON whatever is asked for: a 406 helps nobody (RFC 9110, 15.5.7)."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return DefaultContentNegotiation().select_parser(request, parsers)

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        return renderers[0], renderers[0].media_type


def list_response(
    request: Request,
    page: Page[Any],
    serializer: BaseSerializer[Any],
    *,
    parameter: str = "cursor",
    known: Collection[str] | None = None,
) -> Response:
    """Answer a page: its rows, and the addresses beside it, also as Link (RFC 8288).

    Of the query these addresses keep the `known` parameters, or all.
    """
    query = request.query_params.copy()
    for name in set(query) - set(query if known is None else known):
        del query[name]
    base = request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
    links = {
        name: replace_query_param(base, parameter, cursor) if cursor else None
        for name, cursor in (("next", page.next), ("previous", page.previous))
    }
    response = Response({"results": serializer.data, **links})
    relations = {"next": "next", "previous": "prev"}
    header = [f'<{url}>; rel="{relations[n]}"' for n, url in links.items() if url]
    if header:
        response["Link"] = ", ".join(header)
    response["Cache-Control"] = "no-cache"
    # Who made a change is told to those who are signed in.
    patch_vary_headers(response, ["Authorization", "Cookie"])
    return response
