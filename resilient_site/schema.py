"""What the OpenAPI schema says of every operation: errors, tokens, names."""

from typing import Any, Literal

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

from resilient_site.errors import PROBLEM_TYPE

EVERYWHERE = (400, 401, 503)
# 405: `bulk` and `export` stand where an id would, and take other methods.
ON_ONE = (404, 405)
ON_BODIES = (411, 413, 415)
ON_WRITES = (403,)
ON_VERSIONS = (412, 428)


class ProblemSerializer(serializers.Serializer[Any]):
    """An error (RFC 9457); `code` is stable, `errors` says what is wrong by field."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField()
    code = serializers.CharField()
    request_id = serializers.CharField()
    errors = serializers.DictField(required=False)  # type: ignore[assignment]


class ProblemSchema(AutoSchema):
    """Names the problem responses that every operation can give."""

    def get_auth(self) -> list[dict[str, list[str]]]:
        schemes: list[dict[str, list[str]]] = super().get_auth()
        # Reading is open to all.
        return [*schemes, {}] if self.method == "GET" else schemes

    def _get_response_bodies(
        self, direction: Literal["request", "response"] = "response"
    ) -> dict[str, Any]:
        responses: dict[str, Any] = super()._get_response_bodies(direction)
        for status in self._problem_statuses():
            responses.setdefault(
                str(status),
                self._get_response_for_code(  # type: ignore[no-untyped-call]
                    ProblemSerializer, str(status), [PROBLEM_TYPE], direction
                ),
            )
        return responses

    def _problem_statuses(self) -> list[int]:
        statuses = [*EVERYWHERE]
        on_one = "{" in self.path
        if on_one:
            statuses += ON_ONE
        if self.method not in ("GET", "HEAD"):
            statuses += ON_WRITES
            if on_one:
                statuses += ON_VERSIONS
        if self.method in ("POST", "PUT", "PATCH"):
            statuses += ON_BODIES
        return statuses


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "resilient_site.rest.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Token` and a space, then the token.",
        }
