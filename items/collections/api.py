"""REST views of collections: thin callers of `items.collections.editing`."""

from typing import Any

from django.http import HttpResponse
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from items.catalogue import ITEMS, collection_tag
from items.collections import api_schema as schema
from items.collections import editing
from items.collections.editing import COLLECTIONS, Data
from items.collections.list_query import find_page
from items.collections.serializers import (
    CollectionSerializer,
    ListedCollectionSerializer,
)
from items.models import Collection
from resilient_site.api.conditional import precondition_of
from resilient_site.api.idempotency import has_outcome, idempotent, read_key
from resilient_site.api.pagination import list_response, parse_page_size
from resilient_site.api.views import StrictView, is_lenient
from resilient_site.edge.policy import policy
from resilient_site.resilience.cache_control import share

LIST_PARAMETERS = ("cursor", "page_size")


class CollectionViewSet(StrictView, GenericViewSet[Collection]):
    queryset = Collection.objects.all()
    serializer_class = CollectionSerializer
    lookup_field = "key"
    lookup_value_regex = "[^/]+"

    @policy(shared=LIST_PARAMETERS)
    @schema.listing
    def list(self, request: Request) -> Response:
        page = find_page(
            request.query_params.get("cursor"), parse_page_size(request.query_params)
        )
        found: Any = page.rows
        rows = ListedCollectionSerializer(found, many=True)
        response = list_response(request, page, rows, known=LIST_PARAMETERS)
        share(response, COLLECTIONS, ITEMS)
        return response

    @schema.creation
    @idempotent
    def create(self, request: Request) -> Response:
        collection = editing.create_collection(_clean(request.data, request))
        response = _respond(collection, 201)
        response["Location"] = request.build_absolute_uri(
            request.path.rstrip("/") + f"/{collection.key}"
        )
        return response

    @policy(shared=())
    @schema.reading
    def retrieve(self, request: Request, key: str) -> Response:
        response = _respond(editing.get_collection(key))
        share(response, collection_tag(key))
        return response

    @schema.replacing
    def update(self, request: Request, key: str) -> HttpResponse:
        read_key(request)  # rejected before a bad body
        body = request.data
        if isinstance(body, dict):  # the address has the key
            body = {"key": key} | body
        return self._change(request, key, editing.EMPTY | _clean(body, request))

    @schema.changing
    def partial_update(self, request: Request, key: str) -> HttpResponse:
        read_key(request)  # rejected before a bad body
        data = _clean(request.data, request, partial=True)
        return self._change(request, key, data)

    @schema.deletion
    @idempotent
    def destroy(self, request: Request, key: str) -> Response:
        editing.delete_collection(key, precondition=precondition_of(request))
        return Response(status=204)

    @policy(shared=())
    @schema.schema_reading
    @action(detail=True, url_path="schema", url_name="schema")
    def read_schema(self, request: Request, key: str) -> Response:
        response = _respond(editing.get_collection(key), is_schema=True)
        share(response, collection_tag(key))
        return response

    @schema.schema_replacing
    @read_schema.mapping.put
    def replace_schema(self, request: Request, key: str) -> HttpResponse:
        read_key(request)  # rejected before a bad body
        data = editing.clean({"schema": request.data}, partial=True)
        return self._change(request, key, data, is_schema=True)

    def _change(
        self, request: Request, key: str, changes: Data, *, is_schema: bool = False
    ) -> HttpResponse:
        if has_outcome(request):
            return self._write(request, key, changes, "", is_schema)
        with editing.introduced(
            key, changes, precondition=precondition_of(request)
        ) as attempt:
            return self._write(request, key, changes, attempt, is_schema)

    @idempotent
    def _write(
        self, request: Request, key: str, changes: Data, attempt: str, is_schema: bool
    ) -> Response:
        collection = editing.update_collection(
            key, changes, precondition=precondition_of(request), attempt=attempt
        )
        return _respond(collection, is_schema=is_schema)


def _clean(body: Any, request: Request, *, partial: bool = False) -> Data:
    return editing.clean(body, partial=partial, ignores_unknown=is_lenient(request))


def _respond(
    collection: Collection, status: int = 200, *, is_schema: bool = False
) -> Response:
    shown = CollectionSerializer(collection).data
    response = Response(shown["schema"] if is_schema else shown, status)
    response["ETag"] = collection.etag
    if date := collection.last_modified:
        response["Last-Modified"] = date
    response["Cache-Control"] = "no-cache"
    return response
