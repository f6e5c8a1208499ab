"""Descriptions of the REST operations on collections for the OpenAPI schema."""

from drf_spectacular.utils import OpenApiParameter

from items import rules
from items.api_schema import (
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    LAST_MODIFIED,
    LOCATION,
)
from items.collections.editing import ITEMS_AT_ONCE
from items.collections.serializers import CollectionListSerializer, CollectionSerializer
from resilient_site.api.schema import (
    CURSOR,
    NOT_MODIFIED,
    PAGE_SIZE_PARAMETER,
    header,
    operation,
)

KEY = OpenApiParameter(
    "key",
    {"type": "string", "pattern": rules.KEY_PATTERN, "maxLength": rules.KEY_MAX},
    OpenApiParameter.PATH,
)
ETAG = header("ETag", "The version of the collection.", response=True)
CHANGING = (
    "A schema that items do not conform to is 409 `schema_breaks_items`, with the "
    "items in `items` and their number in `count`. Where the collection has more than "
    f"{ITEMS_AT_ONCE:,} items it is 409 `schema_needs_job`: submit a job of the task "
    "`change_schema`."
)
DOCUMENT = {
    "type": "object",
    "additionalProperties": True,
    "description": (
        "JSON Schema 2020-12 of the attributes: `properties` of type string, integer, "
        "number, boolean, or array of these, and `required`. `x-searchable`: the "
        "search looks into it; `x-filterable`: lists can be filtered by it; "
        "`x-unique`: no two items have the same; `x-reference`: it has the code of an "
        "item of that collection. `x-order`: the names of the attributes in their "
        "order, which is that of `properties` unless it is given."
    ),
}

listing = operation(
    summary="List collections",
    description="By their keys.",
    parameters=[PAGE_SIZE_PARAMETER, CURSOR],
    responses={200: CollectionListSerializer, 304: NOT_MODIFIED},
)
creation = operation(
    summary="Create a collection",
    description="A taken key is 400 `collection_exists`.",
    parameters=[ETAG, LOCATION],
    responses={201: CollectionSerializer},
)
reading = operation(
    summary="Read a collection",
    description="404 `collection_not_found` without one.",
    parameters=[KEY, IF_NONE_MATCH, IF_MODIFIED_SINCE, ETAG, LAST_MODIFIED],
    responses={200: CollectionSerializer, 304: NOT_MODIFIED},
)
replacing = operation(
    summary="Replace a collection",
    description=f"What the body leaves out becomes empty; the key stays. {CHANGING}",
    parameters=[KEY, IF_MATCH, IF_UNMODIFIED_SINCE, ETAG],
    responses=CollectionSerializer,
)
changing = operation(
    summary="Change a collection",
    description=f"What the body leaves out stays as it is. {CHANGING}",
    parameters=[KEY, IF_MATCH, IF_UNMODIFIED_SINCE, ETAG],
    responses=CollectionSerializer,
)
deletion = operation(
    summary="Delete a collection",
    description="One that has items, or is referred to, is 409 `collection_in_use`.",
    parameters=[KEY, IF_MATCH, IF_UNMODIFIED_SINCE],
    responses={204: None},
)
schema_reading = operation(
    summary="Read the schema of a collection",
    description="The JSON Schema of the attributes of its items.",
    operation_id="collections_schema_retrieve",
    parameters=[KEY, IF_NONE_MATCH, IF_MODIFIED_SINCE, ETAG, LAST_MODIFIED],
    responses={200: DOCUMENT, 304: NOT_MODIFIED},
)
schema_replacing = operation(
    summary="Replace the schema of a collection",
    description=CHANGING,
    operation_id="collections_schema_update",
    parameters=[KEY, IF_MATCH, IF_UNMODIFIED_SINCE, ETAG],
    request={"application/json": DOCUMENT},
    responses={200: DOCUMENT},
)
