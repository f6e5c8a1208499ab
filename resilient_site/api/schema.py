"""OpenAPI: what every operation has, such as errors, authentication and headers."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
)
from rest_framework import serializers
from rest_framework.permissions import SAFE_METHODS

from resilient_site.api.idempotency import HEADER, KEY_PATTERN, REPLAYED_HEADER
from resilient_site.api.pagination import PAGE_SIZE, PAGE_SIZE_MAX
from resilient_site.errors import CODES, PROBLEM_TYPE

EVERYWHERE = (400, 401, 429, 503)
# 405: `bulk` and `export` stand where an id would, and take other methods.
ON_ONE = (404, 405)
ON_BODIES = (408, 411, 413, 415)
ON_WRITES = (403, 409, 412, 422)
ON_VERSIONS = (428,)

KEY_PARAMETER = OpenApiParameter(
    HEADER,
    {"type": "string", "pattern": KEY_PATTERN},
    OpenApiParameter.HEADER,
    description=(
        "A unique text that you choose. For 24 hours the request can be repeated with "
        "it and is carried out once: the first response is replayed, with "
        f"`{REPLAYED_HEADER}: true`. A job is returned as it is at that moment."
    ),
)


VIOLATED = "The rate-limit policies (see `RateLimit-Policy`) that were exceeded."
HEADERS = {
    "RateLimit-Policy": {
        "description": (
            "The rate-limit policy that the request counts for: its name, the quota "
            '`q` of requests and the window `w` in seconds. With `scope="process"` '
            "each process of the site counts by itself at the moment."
        ),
        "schema": {"type": "string"},
        "example": '"read";q=6000;w=60',
    },
    "RateLimit": {
        "description": (
            "What is left of the quota: `r` requests, until it is reset in `t` seconds."
        ),
        "schema": {"type": "string"},
        "example": '"read";r=5999;t=42',
    },
    "Retry-After": {
        "description": "The seconds after which to repeat the request.",
        "schema": {"type": "integer"},
    },
}


def operation[V: Callable[..., Any]](
    *, parameters: Sequence[OpenApiParameter] = (), **described: Any
) -> Callable[[V], V]:
    """Describe a handler, and declare its query parameters: it takes no others."""
    describe = extend_schema(parameters=[*parameters], **described)

    def decorate(view: V) -> V:
        view = describe(view)
        view.has_body = "request" in described  # type: ignore[attr-defined]
        view.query_parameters = frozenset(  # type: ignore[attr-defined]
            p.name for p in parameters if p.location == OpenApiParameter.QUERY
        )
        return view

    return decorate


def header(name: str, description: str, **where: Any) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        OpenApiTypes.STR,
        OpenApiParameter.HEADER,
        description=description,
        **where,
    )


def events_of(data: str) -> dict[Any, Any]:
    """Return the responses of a stream of server-sent events with this `data`."""
    text = f"Events with the fields `event`, `id` and `data`. {data}"
    # No type: tools take it for that of the stream, or of one event.
    return {(200, "text/event-stream"): {"description": text}}


PAGE_SIZE_PARAMETER = OpenApiParameter(
    "page_size",
    {"type": "integer", "minimum": 1, "maximum": PAGE_SIZE_MAX, "default": PAGE_SIZE},
)
CURSOR = OpenApiParameter(
    "cursor", OpenApiTypes.STR, description="As given in `next` and `previous`."
)
NOT_MODIFIED = OpenApiResponse(description="Not modified")


EXAMPLE_PROBLEM = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "The request is not valid.",
    "instance": "/api/v1/items",
    "code": "invalid",
    "request_id": "0b9c1f0e6e5f4c1d8a7b6c5d4e3f2a1b",
    "errors": {"name": ["This field is required."]},
}


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem document (RFC 9457): `code` is stable, `errors` has messages by field."""

    absent_from_some = {"errors", "violated-policies", "deleted_at"}

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField()
    code = serializers.CharField()
    request_id = serializers.CharField()
    errors = serializers.DictField(required=False)  # type: ignore[assignment]
    deleted_at = serializers.DateTimeField(
        required=False, help_text="With 410: when it was deleted."
    )

    def get_fields(self) -> dict[str, Any]:
        """Add the member whose name is not a Python identifier."""
        policies = serializers.ListField(
            child=serializers.CharField(), required=False, help_text=VIOLATED
        )
        return super().get_fields() | {"violated-policies": policies}


# Of what was deleted, in the responses of an operation.
GONE: dict[Any, Any] = {(410, PROBLEM_TYPE): ProblemSerializer}


class ProblemSchema(AutoSchema):
    """Schema with the problem responses that every operation can give."""

    def get_auth(self) -> list[dict[str, list[str]]]:
        schemes: list[dict[str, list[str]]] = super().get_auth()
        # Reading needs no authentication.
        is_open = self.method == "GET" or self._is_batch
        return [*schemes, {}] if is_open else schemes

    @property
    def _is_batch(self) -> bool:
        """Whether it is a POST that reads (see `edge.policy.Batch`)."""
        handler = getattr(self.view, self.method.lower(), None)
        stated = getattr(handler, "policy", None)
        return stated is not None and stated.batch is not None

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

    def get_description(self) -> str:  # type: ignore[override]
        """Return none: the docstring of a view is for those who work on it."""
        return ""

    def _map_basic_serializer(
        self, serializer: Any, direction: Literal["request", "response"]
    ) -> dict[str, Any]:
        """Require what every response has, not only what a request needs."""
        schema: dict[str, Any]
        schema = super()._map_basic_serializer(  # type: ignore[no-untyped-call]
            serializer, direction
        )
        if direction == "response":
            absent: set[str] = getattr(serializer, "absent_from_some", set())
            schema["required"] = sorted(schema["properties"].keys() - absent)
        return schema

    def _get_request_body(self, direction: Literal["request"] = "request") -> Any:
        """Describe the body of a DELETE too, where one is declared."""
        handler = getattr(self.view, getattr(self.view, "action", None) or "", None)
        method = self.method
        if method == "DELETE" and getattr(handler, "has_body", False):
            self.method = "POST"  # the methods that may have one are fixed
        try:
            return super()._get_request_body(direction)  # type: ignore[no-untyped-call]
        finally:
            self.method = method

    def get_override_parameters(self) -> list[Any]:
        is_read = self.method in SAFE_METHODS or self._is_batch
        return [] if is_read else [KEY_PARAMETER]

    def _problem_statuses(self) -> list[int]:
        statuses = [*EVERYWHERE]
        on_one = "{" in self.path
        if on_one:
            statuses += ON_ONE
        if self.method not in SAFE_METHODS and not self._is_batch:
            statuses += ON_WRITES
            if on_one:
                statuses += ON_VERSIONS
        if self.method in ("POST", "PUT", "PATCH"):
            statuses += ON_BODIES
        return statuses


def complete(result: dict[str, Any], **generator: Any) -> dict[str, Any]:
    """Add what all operations share: headers of responses, and the codes of errors.

    Trailing slashes are optional, and left out.
    """
    result["paths"] = {
        path.rstrip("/"): operations for path, operations in result["paths"].items()
    }
    schemas = result["components"]["schemas"]
    schemas["ProblemCode"] = {"type": "string", "enum": [*CODES]}
    problem = schemas["Problem"]
    problem["properties"]["code"] = {"$ref": "#/components/schemas/ProblemCode"}
    problem["example"] = EXAMPLE_PROBLEM
    result["components"]["headers"] = HEADERS
    for operations in result["paths"].values():
        for operation in operations.values():
            if "requestBody" in operation:
                operation["requestBody"]["required"] = True
            for status, response in operation["responses"].items():
                names = ["RateLimit-Policy", "RateLimit"]
                names += ["Retry-After"] * (status in ("429", "503"))
                response.setdefault("headers", {}).update(
                    {name: {"$ref": f"#/components/headers/{name}"} for name in names}
                )
    return result


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "resilient_site.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Token`, a space, and the API token.",
        }


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "resilient_site.api.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "The API token."}
