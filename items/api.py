"""REST views of the catalogue, the change log and the change feed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.decorators import action
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.viewsets import GenericViewSet

from items import api_schema as schema
from items import catalogue, facets, fields, past, reading, relations, representation
from items.catalogue import ITEMS, item_tag
from items.changes import feed, stream
from items.collections.editing import COLLECTIONS
from items.fields import ItemData
from items.highlighting import highlight
from items.imports.exporting import FORMATS, download
from items.list_query import PARAMETERS, ListQuery
from items.models import Item, ItemChange
from items.past import PastList
from items.representation import Representation
from items.serializers import (
    ChangeSerializer,
    FacetsSerializer,
    ItemSerializer,
    PastItemSerializer,
    ReferenceSerializer,
)
from items.suggestions import suggest
from resilient_site.accounts.actor import Actor
from resilient_site.api.conditional import precondition_of
from resilient_site.api.idempotency import idempotent
from resilient_site.api.json_format import (
    JSONRenderer,
    MergePatchParser,
    is_merge_patch,
)
from resilient_site.api.keyset import Page, paginate
from resilient_site.api.pagination import list_response, parse_flag, parse_page_size
from resilient_site.api.prefer import parse_prefer
from resilient_site.api.views import StrictView, is_lenient
from resilient_site.edge.policy import policy
from resilient_site.errors import Invalid
from resilient_site.resilience.cache_control import (
    TAGS,
    Part,
    share,
    share_with_anonymous,
)

READ_PARAMETERS = (*representation.PARAMETERS, *past.PARAMETERS)
LIST_PARAMETERS = (
    *PARAMETERS, "page_size", "count", "highlight", "as_of", *representation.PARAMETERS,
)  # fmt: skip
FACET_PARAMETERS = tuple(n for n in PARAMETERS if n not in ("ordering", "cursor"))
PAGING = ("cursor", "page_size")


def read_items(urls: Sequence[Mapping[str, str]]) -> list[Part | None]:
    """Read many items as `ItemViewSet.retrieve` responds with each of them."""
    found = reading.find_items([url["id"] for url in urls])
    parts: list[Part | None] = []
    for url in urls:
        item = found.get(url["id"])
        # A link needs the address of the site.
        if item is None or item.replaced_by_id:
            parts.append(None)
            continue
        response = HttpResponse()
        share(response, item_tag(item.pk))
        headers = [("ETag", item.etag), ("Cache-Control", response["Cache-Control"])]
        if date := item.last_modified:
            headers.append(("Last-Modified", date))
        body = JSONRenderer().render(item.as_json())
        parts.append(Part(200, body, [response[TAGS]], headers))
    return parts


class ItemViewSet(StrictView, GenericViewSet[Item]):
    queryset = Item.objects.all()
    serializer_class = ItemSerializer
    lookup_field = "id"
    lookup_value_regex = "[^/]+"

    def get_parsers(self) -> list[BaseParser]:
        is_patch = self.request and self.request.method == "PATCH"
        return [*super().get_parsers(), *([MergePatchParser()] if is_patch else [])]

    @policy(shared=LIST_PARAMETERS)
    @schema.listing
    def list(self, request: Request) -> Response:
        shape = self._representation(request)
        if request.query_params.get("as_of"):
            return self._list_past(request, shape)
        query = ListQuery.parse(request.query_params)
        page = query.page(
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        rows = self.get_serializer(page.rows, many=True)
        response = list_response(request, page, rows, known=LIST_PARAMETERS)
        response.data["results"], _ = shape.of(response.data["results"])
        if parse_flag(request.query_params, "count"):
            response.data["total"] = query.total()
        if parse_flag(request.query_params, "highlight"):
            found = highlight(page.rows, query.search)
            for row, ranges in zip(response.data["results"], found, strict=True):
                row["highlight"] = ranges
        if query.search and not page.rows and not request.query_params.get("cursor"):
            response.data["suggestions"] = suggest(query)
        share_with_anonymous(request, response, ITEMS)
        return response

    @schema.creation
    @idempotent
    def create(self, request: Request) -> Response:
        data = _clean(request.data, request)
        item = catalogue.create_item(data, actor=Actor.from_request(request))
        response = self._respond(item, 201)
        response["Location"] = request.build_absolute_uri(
            request.path.rstrip("/") + f"/{item.pk}"
        )
        return response

    @policy(shared=READ_PARAMETERS, read_many=read_items)
    @schema.reading
    def retrieve(self, request: Request, id: str) -> Response:
        if request.query_params:
            return self._retrieve_otherwise(request, id)
        response = self._respond(catalogue.get_item(id))
        share(response, item_tag(id))
        return response

    @schema.replacing
    @idempotent
    def update(self, request: Request, id: str) -> Response:
        # What a PUT leaves out is empty in the new state (RFC 9110, section 9.3.4).
        data = fields.replacement(_clean(request.data, request))
        return self._update(request, id, data)

    @schema.changing
    @idempotent
    def partial_update(self, request: Request, id: str) -> Response:
        if not is_merge_patch(request):
            data = _clean(request.data, request, partial=True)
            return self._update(request, id, data)

        def patch(item: Item) -> ItemData:
            members = fields.patched(item.as_json(), request.data)
            data = _clean(members, request, partial=True)
            _expect_id(id, data)
            return data

        return self._update(request, id, patch)

    @schema.deletion
    @idempotent
    def destroy(self, request: Request, id: str) -> Response:
        catalogue.delete_item(
            id, actor=Actor.from_request(request), precondition=precondition_of(request)
        )
        return Response(status=204)

    @policy(is_heavy=True, read_rate="export")
    @schema.export
    @action(detail=False, url_path="-/export")
    def export(self, request: Request) -> StreamingHttpResponse:
        name = request.query_params.get("format", "csv")
        if name not in FORMATS:
            raise Invalid(errors={"format": [f"Must be one of {', '.join(FORMATS)}."]})
        flat = parse_flag(request.query_params, "flat")
        items = ListQuery.parse(request.query_params).items()
        return download(name, items, flat=flat)

    @policy(shared=FACET_PARAMETERS)
    @schema.facets
    @action(detail=False, url_path="-/facets")
    def facets(self, request: Request) -> Response:
        found = facets.count(ListQuery.parse(request.query_params))
        response = Response(FacetsSerializer(found).data)
        share(response, ITEMS, COLLECTIONS)
        return response

    @policy(shared=(*FACET_PARAMETERS, *READ_PARAMETERS))
    @schema.reading_or_facets
    def retrieve_or_facets(self, request: Request, id: str) -> Response:
        """Respond with the item that is called like the action, or do the action."""
        with suppress(catalogue.ItemNotFound):
            return self.retrieve(request, id)
        self.expect_known_parameters(request, self.facets)
        return self.facets(request)  # type: ignore[call-arg, arg-type]

    @policy(is_heavy=True, read_rate="export")
    @schema.reading_or_export
    def retrieve_or_export(self, request: Request, id: str) -> HttpResponseBase:
        """Respond with the item that is called like the action, or do the action."""
        with suppress(catalogue.ItemNotFound):
            return self.retrieve(request, id)
        self.expect_known_parameters(request, self.export)
        return self.export(request)  # type: ignore[call-arg, arg-type]

    @policy(shared=PAGING)
    @schema.history
    @action(detail=True)
    def history(self, request: Request, id: str) -> Response:
        page = paginate(
            ItemChange.objects.filter(item_id=id),
            ordering="-version",
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        if not page.rows and not ItemChange.objects.filter(item_id=id).exists():
            raise catalogue.ItemNotFound
        rows = ChangeSerializer(
            page.rows, many=True, context=self.get_serializer_context()
        )
        response = list_response(request, page, rows, known=PAGING)
        share_with_anonymous(request, response, item_tag(id))
        return response

    @policy(shared=PAGING)
    @schema.children
    @action(detail=True)
    def children(self, request: Request, id: str) -> Response:
        page = paginate(
            Item.objects.filter(parent=id).for_reading(),
            ordering="sort_key",
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        if not page.rows:
            catalogue.get_item(id)
        rows = self.get_serializer(page.rows, many=True)
        response = list_response(request, page, rows, known=PAGING)
        share_with_anonymous(request, response, ITEMS)
        return response

    @policy(shared=())
    @schema.ancestors
    @action(detail=True)
    def ancestors(self, request: Request, id: str) -> Response:
        items = relations.ancestors(catalogue.get_item(id))
        response = Response({"results": self.get_serializer(items, many=True).data})
        share(response, ITEMS)
        return response

    @policy(shared=PAGING)
    @schema.references
    @action(detail=True)
    def references(self, request: Request, id: str) -> Response:
        references = relations.References(catalogue.get_item(id))
        page = paginate(
            references.items(),
            ordering="id",
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        rows = ReferenceSerializer(
            page.rows, many=True, context={"references": references}
        )
        response = list_response(request, page, rows, known=PAGING)
        share_with_anonymous(request, response, ITEMS)
        return response

    def _update(
        self,
        request: Request,
        id: str,
        changes: ItemData | Callable[[Item], ItemData],
    ) -> Response:
        if not callable(changes):
            _expect_id(id, changes)
        item = catalogue.update_item(
            id,
            changes,
            actor=Actor.from_request(request),
            precondition=precondition_of(request),
        )
        return self._respond(item)

    def _representation(self, request: Request) -> Representation:
        lenient = is_lenient(request)
        return Representation.parse(request.query_params, ignores_unknown=lenient)

    def _list_past(self, request: Request, shape: Representation) -> Response:
        query = PastList.parse(request.query_params, LIST_PARAMETERS)
        page = query.page(
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        rows = PastItemSerializer(page.rows, many=True)
        response = list_response(request, page, rows, known=LIST_PARAMETERS)
        response.data["results"], _ = shape.of(response.data["results"])
        # What is settled no write changes, and a purge makes all caches void.
        is_settled = past.is_settled(query.at)
        tags = [] if is_settled else [ITEMS]
        share_with_anonymous(request, response, *tags, is_settled=is_settled)
        return response

    def _retrieve_otherwise(self, request: Request, id: str) -> Response:
        """Respond with an item as it was, or with another part of it than the whole."""
        shape = self._representation(request)
        if any(map(request.query_params.get, past.PARAMETERS)):
            return self._retrieve_past(request, id, shape)
        response, named = self._respond(catalogue.get_item(id)), {id}
        if not shape.is_whole:
            [response.data], expanded = shape.of([response.data])
            named |= expanded
            # They are those of the item as a whole, for writes.
            del response["ETag"], response["Last-Modified"]
        share(response, *map(item_tag, named))
        return response

    def _retrieve_past(
        self, request: Request, id: str, shape: Representation
    ) -> Response:
        change, is_settled = past.state_of(request.query_params, id)
        [shown], _ = shape.of([past.as_json(change)])
        response = Response(shown)
        url = reverse("api:item-detail", args=[id], request=request)
        response["Link"] = f'<{url}>; rel="latest-version"'
        share(response, item_tag(id), is_settled=is_settled)
        return response

    def _respond(self, item: Item, status: int = 200) -> Response:
        response = Response(item.as_json(), status)
        response["ETag"] = item.etag
        if date := item.last_modified:
            response["Last-Modified"] = date
        if successor := item.replaced_by_id:
            url = reverse("api:item-detail", args=[successor], request=self.request)
            response["Link"] = f'<{url}>; rel="successor-version"'
        response["Cache-Control"] = "no-cache"
        return response


class ChangeViewSet(StrictView, GenericViewSet[ItemChange]):
    """The change feed: the change log of all items, for systems that keep a copy."""

    queryset = ItemChange.objects.all()
    serializer_class = ChangeSerializer

    @schema.changes
    def list(self, request: Request) -> Response:
        header = request.headers.get("Prefer", "")
        preference = parse_prefer(header, stream.WAIT_MAX_S)
        since = request.query_params.get("since")
        key = feed.parse_collection(request.query_params.getlist("collection"))
        epoch, position = feed.parse_cursor(since, "since")
        size = parse_page_size(request.query_params)
        changes, position, is_all = feed.read(position, size, key)
        # There is always a next page: a client returns to it for new changes.
        next_cursor = feed.cursor_of(epoch, position)
        page = Page(rows=changes, next=next_cursor, previous=None)
        rows = self.get_serializer(changes, many=True)
        response = list_response(request, page, rows, parameter="since")
        response.data["epoch"] = epoch
        if preference.wait_s is not None:
            response["Preference-Applied"] = f"wait={preference.wait_s}"
        if preference.wait_s and not changes and is_all:
            query = request.query_params.copy()
            query["since"] = next_cursor
            then = f"{request.path}?{query.urlencode()}"
            wait_s = preference.wait_s
            return stream.wait(response, epoch, position, key, wait_s, then)
        return response

    @schema.change_events
    @action(detail=False)
    def events(self, request: Request) -> HttpResponse:
        named, cursor = "since", request.query_params.get("since")
        if last_event_id := request.headers.get("Last-Event-ID"):
            named, cursor = "Last-Event-ID", last_event_id
        key = feed.parse_collection(request.query_params.getlist("collection"))
        return stream.stream(*feed.parse_cursor(cursor, named), key)


def _clean(body: Any, request: Request, *, partial: bool = False) -> ItemData:
    lenient = is_lenient(request)
    return fields.clean(body, partial=partial, is_json=True, ignores_unknown=lenient)


def _expect_id(id: str, data: ItemData) -> None:
    if data.get("id", id) != id:
        raise Invalid(errors={"id": ["The id of an item cannot be changed."]})
