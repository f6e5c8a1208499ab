"""REST views of tags: thin callers of `items.tags.editing`."""

from collections.abc import Iterable
from typing import Any

from django.db.models import IntegerField
from django.db.models.expressions import RawSQL
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    extend_schema_serializer,
)
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from items import rules
from items.api_schema import (
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    LAST_MODIFIED,
)
from items.catalogue import ITEMS
from items.models import Tag
from items.tags import editing
from items.tags.editing import ITEMS_AT_ONCE, TAGS, Data
from resilient_site.accounts.actor import Actor
from resilient_site.api.conditional import precondition_of
from resilient_site.api.idempotency import idempotent
from resilient_site.api.keyset import paginate
from resilient_site.api.pagination import list_response, parse_page_size
from resilient_site.api.schema import (
    CURSOR,
    NOT_MODIFIED,
    PAGE_SIZE_PARAMETER,
    header,
    operation,
)
from resilient_site.api.views import StrictView, is_lenient
from resilient_site.edge.policy import policy
from resilient_site.errors import NotAllowed
from resilient_site.resilience.cache_control import share

COUNTED_MAX = 1_000
LIST_PARAMETERS = ("search", "cursor", "page_size")
# By the index: as many as are counted, and one more.
COUNTING = """(SELECT COUNT(*) FROM (
    SELECT 1 FROM items_itemtag WHERE tag_id = items_tag.id LIMIT %s
) AS counted)"""
# What gives items another tag edits them.
RETAGGING = ("items.change_tag", "items.change_item")


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "A tag to write",
            {"name": "dark red", "description": "RAL 3000 to 3011"},
            request_only=True,
        )
    ]
)
class TagSerializer(serializers.Serializer[Tag]):
    """Words that group items of any collection."""

    name = serializers.RegexField(rules.TAG_PATTERN, max_length=rules.TAG_MAX)
    description = serializers.CharField(
        max_length=rules.TAG_DESCRIPTION_MAX, allow_blank=True
    )
    version = serializers.IntegerField(read_only=True, min_value=1)
    updated_at = serializers.DateTimeField(read_only=True)


@extend_schema_serializer(many=False)
class ListedTagSerializer(TagSerializer):
    item_count = serializers.IntegerField(
        read_only=True, min_value=0, help_text=f"Counted up to {COUNTED_MAX:,}."
    )
    has_more_items = serializers.BooleanField(read_only=True)


@extend_schema_serializer(many=False)
class TagListSerializer(serializers.Serializer[Any]):
    results = ListedTagSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


class MergerSerializer(serializers.Serializer[Any]):
    into = serializers.RegexField(rules.TAG_PATTERN, max_length=rules.TAG_MAX)


NAME = OpenApiParameter(
    "name", OpenApiTypes.STR, OpenApiParameter.PATH, description="Percent-encoded."
)
ETAG = header("ETag", "The version of the tag.", response=True)
GUARDS = (IF_MATCH, IF_UNMODIFIED_SINCE)
EDITS = (
    "Each item that has the tag is edited, with an entry in the change log, in one "
    f"transaction. More than {ITEMS_AT_ONCE:,} items are 409 `tag_needs_job`: submit a "
    "job of the task `replace_tag`."
)


class TagViewSet(StrictView, GenericViewSet[Tag]):
    queryset = Tag.objects.all()
    serializer_class = TagSerializer

    @policy(shared=LIST_PARAMETERS)
    @operation(
        summary="List tags",
        description="By their names.",
        parameters=[
            OpenApiParameter(
                "search", OpenApiTypes.STR, description="How the names begin."
            ),
            PAGE_SIZE_PARAMETER,
            CURSOR,
        ],
        responses={200: TagListSerializer, 304: NOT_MODIFIED},
    )
    def list(self, request: Request) -> Response:
        counted = RawSQL(COUNTING, [COUNTED_MAX + 1], IntegerField())  # noqa: S611 - ours
        start = rules.fold_tag(request.query_params.get("search", ""))
        page = paginate(
            Tag.objects.filter(name__startswith=start).annotate(found=counted),
            ordering="name",
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        found: Any = [*_counted(page.rows)]
        rows = ListedTagSerializer(found, many=True)
        response = list_response(request, page, rows, known=LIST_PARAMETERS)
        share(response, TAGS, ITEMS)
        return response

    @policy(shared=())
    @operation(
        summary="Read a tag",
        description="404 `tag_not_found` without one.",
        parameters=[NAME, IF_NONE_MATCH, IF_MODIFIED_SINCE, ETAG, LAST_MODIFIED],
        responses={200: TagSerializer, 304: NOT_MODIFIED},
    )
    def retrieve(self, request: Request, name: str) -> Response:
        response = _respond(editing.get_tag(name))
        share(response, TAGS)
        return response

    @operation(
        summary="Describe or rename a tag",
        description=(
            f"With another `name`: {EDITS} A name that another tag has is 409 "
            "`tag_exists`: merge them."
        ),
        parameters=[NAME, *GUARDS, ETAG],
        request=TagSerializer(partial=True),
        responses=TagSerializer,
    )
    @idempotent
    def partial_update(self, request: Request, name: str) -> Response:
        changes = _clean(request, "name", "description")
        if "name" in changes:
            _expect_retagging(request)
        tag = editing.change_tag(
            name,
            changes,
            actor=Actor.from_request(request),
            precondition=precondition_of(request),
        )
        return _respond(tag)

    @operation(
        summary="Delete a tag that no item has",
        description="One that an item has is 409 `tag_in_use`.",
        parameters=[NAME, *GUARDS],
        responses={204: None},
    )
    @idempotent
    def destroy(self, request: Request, name: str) -> Response:
        editing.delete_tag(name, precondition=precondition_of(request))
        return Response(status=204)

    @operation(
        summary="Merge a tag into another one",
        description=f"Its items get the tag `into`, and it is deleted. {EDITS}",
        operation_id="tags_merge",
        parameters=[NAME, ETAG],
        request=MergerSerializer,
        responses={200: TagSerializer},
    )
    @idempotent
    def merge(self, request: Request, name: str) -> Response:
        _expect_retagging(request)
        into = _clean(request, "into")["into"]
        tag = editing.merge_tag(name, into, actor=Actor.from_request(request))
        return _respond(tag)


def _clean(request: Request, *names: str) -> Data:
    return editing.clean(request.data, *names, ignores_unknown=is_lenient(request))


def _expect_retagging(request: Request) -> None:
    if not request.user.has_perms(RETAGGING):
        raise NotAllowed


def _counted(rows: Iterable[Any]) -> Iterable[Tag]:
    for tag in rows:
        tag.item_count = min(tag.found, COUNTED_MAX)
        tag.has_more_items = tag.found > COUNTED_MAX
        yield tag


def _respond(tag: Tag) -> Response:
    response = Response(TagSerializer(tag).data)
    response["ETag"] = tag.etag
    if date := tag.last_modified:
        response["Last-Modified"] = date
    response["Cache-Control"] = "no-cache"
    return response
