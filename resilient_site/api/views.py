"""What every REST view does with a request before and after its handler."""

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.views import APIView

from resilient_site.api import conditional
from resilient_site.api.prefer import parse_prefer
from resilient_site.api.unknown_names import UnknownParameter, find_unknown
from resilient_site.edge.request import is_after_wait

LENIENT = "handling=lenient"
# Actions that create what a precondition speaks of.
CREATING = ("create", "bulk_create")


def is_lenient(request: HttpRequest | Request) -> bool:
    """Return whether the client wants unknown names to be ignored."""
    header = request.headers.get("Prefer")
    return header is not None and parse_prefer(header).is_lenient


class StrictView(APIView):
    """REST view that rejects unknown parameters, and obeys preconditions of a POST.

    The parameters of a handler are those that its description in the OpenAPI schema
    has (`resilient_site.api.schema.operation`).
    """

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        action = getattr(self, "action", None)
        if request.method == "POST" and not conditional.META_NAMES.isdisjoint(
            request.META
        ):
            conditional.evaluate(
                "POST",
                request.headers,
                etag=None,
                last_modified=None,
                exists=action not in CREATING,
            )
        handler = getattr(self, action or str(request.method).lower(), None)
        if request.method == "OPTIONS" or handler is None:  # then it is 405
            return
        self.expect_known_parameters(request, handler)

    def expect_known_parameters(self, request: Request, handler: object) -> None:
        # The internal GET that ends a wait has a parameter of the site's own.
        if not request.query_params or is_lenient(request) or is_after_wait(request):
            return
        known = getattr(handler, "query_parameters", ())
        if unknown := find_unknown(request.query_params, known):
            raise UnknownParameter(errors=unknown)

    def finalize_response(
        self, request: Request, response: Any, *args: Any, **kwargs: Any
    ) -> Any:
        final: HttpResponseBase
        final = super().finalize_response(request, response, *args, **kwargs)
        if final.status_code < 400 and is_lenient(request):
            applied = final.get("Preference-Applied", "")
            if LENIENT not in applied:  # it may be a response to idempotent repetition
                both = [applied, LENIENT] if applied else [LENIENT]
                final["Preference-Applied"] = ", ".join(both)
            if "public" in final.get("Cache-Control", ""):
                # For the same address others get an error.
                final["Cache-Control"] = "private, no-cache"
        return final
