"""Paginated lists: the page size in the query, and the response with its links."""

import re
from collections.abc import Collection
from typing import Any

from django.http import QueryDict
from django.utils.cache import patch_vary_headers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.utils.urls import replace_query_param

from resilient_site.api.keyset import Page
from resilient_site.api.unknown_names import names_beyond
from resilient_site.errors import Invalid

PAGE_SIZE = 50
PAGE_SIZE_MAX = 500


def parse_small_number(text: str) -> int | None:
    """Return the number that `text` writes, if it is one of at most 9 digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def parse_page_size(query: QueryDict) -> int:
    """Return the requested page size; raise Invalid if it is out of bounds."""
    size = parse_small_number(query.get("page_size") or str(PAGE_SIZE))
    if size is not None and 1 <= size <= PAGE_SIZE_MAX:
        return size
    raise Invalid(
        errors={"page_size": [f"Must be a number from 1 to {PAGE_SIZE_MAX}."]}
    )


def parse_flag(query: QueryDict, name: str) -> bool:
    """Return whether a parameter is true; raise Invalid if it is something else."""
    text = query.get(name) or "false"
    if text not in ("true", "false"):
        raise Invalid(errors={name: ["Must be true or false."]})
    return text == "true"


def list_response(
    request: Request,
    page: Page[Any],
    serializer: BaseSerializer[Any],
    *,
    parameter: str = "cursor",
    known: Collection[str] | None = None,
) -> Response:
    """Return a page of a list: its rows, and links to the next and previous page.

    The links are in the body and in the header Link (RFC 8288). Of the query they keep
    the `known` parameters, or all. `parameter` is the one that takes the cursor.
    """
    query = request.query_params.copy()
    for name in names_beyond(query, query if known is None else known):
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
    # Authenticated clients also see who made a change.
    patch_vary_headers(response, ["Authorization", "Cookie"])
    return response
