"""Who may read without an account: of every route there is, public and private."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import URLResolver, get_resolver

from tests.factories import make_item

SECRET, ITEM = "Confidential bolt", "bolt"
UUID = "00000000-0000-0000-0000-000000000001"
SAMPLES = {"id": ITEM, "name": "report", "pk": UUID, "key": "general"}
# For everyone, also in a private site: they show nothing of the catalogue.
OPEN = {
    "/favicon.ico", "/livez", "/readyz", "/metrics", "/status/",
    "/account/sign-in/", "/admin/login/", "/api/v1/heavy_computation",
}  # fmt: skip
# For everyone in a public site.
READABLE = {
    "/", "/items/", "/items/-/changes/", "/items/<id>/", "/items/<id>/relations/",
    "/items/new/", "/items/-/batches/", "/items/-/batches/<pk>/",
    "/collections/", "/collections/<key>/",
    "/items/changes/", "/items/import/", "/items/import/<pk>/",
    "/items/import/<pk>/rejects/", "/admin/password_change/",
    "/api/v1/items", "/api/v1/items/-/export", "/api/v1/items/-/facets",
    "/api/v1/items/<id>",
    "/api/v1/collections/<key>/lookup", "/api/v1/collections/<key>/translate",
    "/api/v1/items/<id>/children", "/api/v1/items/<id>/ancestors",
    "/api/v1/items/<id>/references",
    "/api/v1/items/<id>/history", "/api/v1/changes", "/api/v1/changes/events",
    "/api/v1/collections", "/api/v1/collections/<key>",
    "/api/v1/collections/<key>/schema",
    "/api/v1/tags", "/api/v1/tags/<name>",
    "/api/v1/batches", "/api/v1/batches/<id>", "/api/v1/batches/<id>/changes",
    "/api/v1/tasks", "/api/v1/tasks/<name>", "/api/v1/schema", "/api/v1/docs",
    # GET is none of their methods, and is answered so.
    "/api/v1/items/-/bulk", "/api/v1/tags/<name>/merge",
    "/api/v1/batches/<id>/undo",
    "/account/sign-out/", "/admin/logout/",
}  # fmt: skip


def routes(patterns: Any = None, before: str = "") -> Iterator[tuple[str, str]]:
    """Every route, and an address of it."""
    for found in get_resolver().url_patterns if patterns is None else patterns:
        pattern = before + str(found.pattern)
        if isinstance(found, URLResolver):
            yield from routes(found.url_patterns, pattern)
        else:
            plain = re.sub(r"\(\?P<(\w+)>(?:[^()]|\([^()]*\))*\)", r"<\1>", pattern)
            route = "/" + re.sub(r"<\w+:(\w+)>", r"<\1>", plain)
            route = route.replace("^", "").replace(r"\Z", "").removesuffix("$")
            route = route.removesuffix("/?")
            address = re.sub("/(jobs|batches)/<id>", rf"/\1/{UUID}", route)
            yield (
                route,
                re.sub(r"<(\w+)>", lambda found: SAMPLES.get(found[1], "1"), address),
            )


def leads_to_sign_in(response: Any) -> bool:
    found = re.match(
        r"/(account/sign-in|admin/login)/\?next=", response.get("Location", "")
    )
    return response.status_code == 302 and found is not None


@pytest.mark.django_db
@pytest.mark.parametrize("is_public", [True, False])
def test_every_route_is_listed_and_open_to_whom_it_should_be(
    client, settings, is_public
):
    make_item(id=ITEM, name=SECRET)
    settings.PUBLIC_READ = is_public
    allowed = OPEN | READABLE if is_public else OPEN
    unlisted, leaking = [], []
    for route, address in routes():
        response = client.get(address)
        body = b"" if response.streaming else response.content
        is_rest = address.startswith("/api/") and route != "/api/v1/docs"
        is_closed = (
            response.status_code == 401 if is_rest else leads_to_sign_in(response)
        )
        if is_closed == (route in allowed):
            unlisted.append((address, response.status_code))
        is_shared = "public" in response.get("Cache-Control", "")
        if not is_public and (SECRET.encode() in body or is_shared):
            leaking.append(address)
    assert (unlisted, leaking) == ([], [])
