"""REST views of writing many items at once: thin callers of `items.bulk.writing`."""

from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from items.api import ItemViewSet
from items.bulk import api_schema as schema
from items.bulk import writing
from items.bulk.writing import Kind, Rows, Written
from resilient_site.accounts.actor import Actor
from resilient_site.api import conditional
from resilient_site.api.idempotency import idempotent
from resilient_site.api.json_format import is_merge_patch
from resilient_site.api.views import is_lenient
from resilient_site.errors import NotAllowed


class BulkViewSet(ItemViewSet):
    """Many items at once; and where an item may be called "bulk", that one too."""

    @schema.creation
    @idempotent
    def bulk_create(self, request: Request, id: str = "") -> Response:
        rows = _rows(request, writing.CREATE)
        return _respond(writing.write(rows, actor=Actor.from_request(request)), 201)

    @schema.replacing
    @idempotent
    def bulk_replace(self, request: Request, id: str = "") -> Response:
        if not request.user.has_perm("items.add_item"):
            raise NotAllowed
        rows = _rows(request, writing.REPLACE)
        return _respond(writing.write(rows, actor=Actor.from_request(request)))

    @schema.changing
    @idempotent
    def bulk_change(self, request: Request, id: str = "") -> Response:
        is_patch = is_merge_patch(request)
        rows = _rows(request, writing.MERGE_PATCH if is_patch else writing.CHANGE)
        return _respond(writing.write(rows, actor=Actor.from_request(request)))

    @schema.deletion
    @idempotent
    def bulk_delete(self, request: Request, id: str = "") -> Response:
        rows = _rows(request, writing.DELETE)
        return _respond(writing.delete(rows, actor=Actor.from_request(request)))

    # A list is for the bulk call; all else is about the item.

    def update_or_bulk(self, request: Request, id: str) -> HttpResponse:
        is_bulk = isinstance(request.data, list)
        return (self.bulk_replace if is_bulk else self.update)(request, id)

    def partial_update_or_bulk(self, request: Request, id: str) -> HttpResponse:
        is_bulk = isinstance(request.data, list)
        return (self.bulk_change if is_bulk else self.partial_update)(request, id)

    def destroy_or_bulk(self, request: Request, id: str) -> HttpResponse:
        is_bulk = isinstance(request.data, list)
        return (self.bulk_delete if is_bulk else self.destroy)(request, id)


def _rows(request: Request, kind: Kind) -> Rows:
    """Return the rows of the body; a precondition speaks of no item that there is."""
    if request.method != "POST" and not conditional.META_NAMES.isdisjoint(request.META):
        conditional.evaluate(
            str(request.method), request.headers, etag=None, last_modified=None
        )
    return Rows(request.data, kind, ignores_unknown=is_lenient(request))


def _respond(written: Written, status: int = 200) -> Response:
    members: dict[str, Any] = {
        "created": written.created,
        "updated": written.updated,
        "unchanged": written.unchanged,
        "deleted": written.deleted,
        "batch": written.batch_id,
    }
    if written.items:
        members = {"results": written.items} | members
    return Response(members, status)
