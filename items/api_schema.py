"""Descriptions of the catalogue's REST operations for the OpenAPI schema."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from items import filters, representation
from items.facets import FEW, VALUES_MAX
from items.field_types import ID_SCHEMA
from items.fields import FILTERS, SEARCHED_FIELDS
from items.imports.exporting import FORMATS
from items.list_query import COUNTED_MAX, ORDERINGS, RELEVANCE, SEARCH_MAX
from items.past import CONDITIONS as PAST_CONDITIONS
from items.serializers import (
    ChangeFeedSerializer,
    ChangeListSerializer,
    FacetsSerializer,
    ItemListSerializer,
    ItemSerializer,
    ItemsSerializer,
    ReferenceListSerializer,
    ShownItemListSerializer,
    ShownItemSerializer,
)
from resilient_site.api.json_format import JSONParser, MergePatchParser
from resilient_site.api.schema import (
    CURSOR,
    GONE,
    NOT_MODIFIED,
    PAGE_SIZE_PARAMETER,
    events_of,
    header,
    operation,
)

ID = OpenApiParameter("id", ID_SCHEMA, OpenApiParameter.PATH)
SEARCHED = " and ".join(field.name for field in SEARCHED_FIELDS)
SELECTION = [
    OpenApiParameter(
        "search",
        {"type": "string", "maxLength": SEARCH_MAX},
        description=(
            f"Words to find in {SEARCHED}, all of which must be there; or a whole id "
            "or code. Case and accents do not matter."
        ),
    ),
    *(
        OpenApiParameter(
            name, OpenApiTypes.STR, many=True, description=field.filter_help
        )
        for name, field in FILTERS.items()
    ),
    *(
        OpenApiParameter(
            name, declared.type, many=declared.is_many, description=declared.help
        )
        for name, declared in filters.FILTERS.items()
    ),
    OpenApiParameter(
        filters.ANY_ATTRIBUTE,
        OpenApiTypes.STR,
        many=True,
        description=(
            "NAME stands for an attribute that the schema of the `collection`, of "
            "which one is given, declares as filterable, unique or a reference: "
            "`attributes.alpha_3=DEU`. Several values: the items have one of them; so "
            "do those of `attributes.NAME__in=A,B`. Numbers and dates are compared by "
            "`__gt`, `__gte`, `__lt` and `__lte`; `__isnull=true` is for items without "
            "the attribute."
        ),
    ),
]
COUNT = OpenApiParameter(
    "count",
    OpenApiTypes.BOOL,
    description=f"Whether to give the `total` number of items, up to {COUNTED_MAX:,}.",
)
HIGHLIGHT = OpenApiParameter(
    "highlight",
    OpenApiTypes.BOOL,
    description="Whether to give for each item where the words of `search` are.",
)
ORDERING = OpenApiParameter(
    "ordering",
    OpenApiTypes.STR,
    enum=(*ORDERINGS, RELEVANCE),
    description=(
        "By `name` unless given, and with `search` by `relevance`: the item with this "
        "id or code, names that begin with the text, names with its words, the rest."
    ),
)
SHAPE = [
    OpenApiParameter(
        "fields",
        {"type": "array", "items": {"type": "string", "enum": [*representation.NAMES]}},
        style="form",
        explode=False,
        description="Names of members to show, such as `code,name`; `id` always is.",
    ),
    OpenApiParameter(
        "expand",
        {
            "type": "array",
            "items": {"type": "string", "enum": [*representation.EXPANDABLE]},
        },
        style="form",
        explode=False,
        description=(
            "Names of members that refer to other items: in place of their ids, also "
            "as the `target` of links, objects with `id`, `collection`, `code`, "
            "`name` and `status`."
        ),
    ),
]
AS_OF = OpenApiParameter(
    "as_of",
    OpenApiTypes.DATETIME,
    description=(
        "A time that has passed (UTC without an offset): what was then. Transactions "
        "that were open may still add to the last moments before now."
    ),
)
PAST = [
    OpenApiParameter(
        "version",
        {"type": "integer", "minimum": 1},
        description="The item as it was in this version.",
    ),
    AS_OF,
]
IF_NONE_MATCH = header("If-None-Match", "Answer 304 if the item is still at this ETag.")
IF_MATCH = header("If-Match", "Write only if the item is still at this ETag.")
IF_UNMODIFIED_SINCE = header(
    "If-Unmodified-Since", "Write only if the item was not changed after this date."
)
IF_MODIFIED_SINCE = header(
    "If-Modified-Since", "Answer 304 if the item was not changed after this date."
)
ETAG = header("ETag", "The version of the item, to be sent as it is.", response=True)
READ_ETAG = header(
    "ETag",
    "The version of the item, to be sent as it is. With parameters it is one of that "
    "representation alone, and none to write by.",
    response=[200],
)
LAST_MODIFIED = header(
    "Last-Modified",
    "When it was changed; not in the second of the change itself.",
    response=[200],
)
SUCCESSOR = header(
    "Link",
    'The item that replaces it, as `<...>; rel="successor-version"` (RFC 5829); with '
    '`version` or `as_of` the item as it is now, as `<...>; rel="latest-version"`.',
    response=[200],
)
LOCATION = OpenApiParameter(
    "Location", OpenApiTypes.URI, OpenApiParameter.HEADER, response=[201]
)

listing = operation(
    summary="List items",
    description=(
        "A page of the items that the parameters select: follow `next`. Page 10,000 "
        "costs the same as page 1. With `as_of` the items are those of that time, by "
        "`id` or `-id`; a page may have fewer than there is room for, or none, and "
        "still a `next`. They can be filtered by "
        f"{', '.join(f'`{name}`' for name in [*FILTERS, *PAST_CONDITIONS])}."
    ),
    parameters=[
        *SELECTION,
        ORDERING,
        PAGE_SIZE_PARAMETER,
        CURSOR,
        COUNT,
        HIGHLIGHT,
        AS_OF,
        *SHAPE,
    ],
    responses={200: ShownItemListSerializer, 304: NOT_MODIFIED},
)
creation = operation(
    summary="Create an item",
    description="Without an id one is generated. A taken id is 400 `item_exists`.",
    parameters=[ETAG, LOCATION],
    responses={201: ItemSerializer},
)
reading = operation(
    summary="Read an item",
    description=(
        "The present state of the item; 404 `item_not_found` where there never was "
        "one, 410 `item_deleted` with `deleted_at` where there is none any more. With "
        "`version` or `as_of` the state that was, also of a deleted item: 404 "
        "`version_not_found` where there never was that version, 410 `item_deleted` "
        "where it deleted the item, 410 `item_purged` where its contents were removed."
    ),
    parameters=[
        ID,
        *PAST,
        *SHAPE,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        READ_ETAG,
        LAST_MODIFIED,
        SUCCESSOR,
    ],
    responses={200: ShownItemSerializer, 304: NOT_MODIFIED, **GONE},
)
replacing = operation(
    summary="Replace an item",
    description="What the body leaves out becomes empty.",
    parameters=[ID, IF_MATCH, IF_UNMODIFIED_SINCE, ETAG],
    responses=ItemSerializer,
)
changing = operation(
    summary="Change an item",
    description=(
        "What the body leaves out stays as it is. As `application/merge-patch+json` "
        "(RFC 7396) that is true of single labels and attributes too, and `null` "
        "removes a member."
    ),
    parameters=[ID, IF_MATCH, IF_UNMODIFIED_SINCE, ETAG],
    request={
        JSONParser.media_type: ItemSerializer(partial=True),
        MergePatchParser.media_type: OpenApiTypes.OBJECT,
    },
    responses=ItemSerializer,
)
deletion = operation(
    summary="Delete an item",
    description="Its history stays, and the deletion can be undone from there.",
    parameters=[ID, IF_MATCH, IF_UNMODIFIED_SINCE],
    responses={204: None},
)
EXPORT = [
    *SELECTION,
    OpenApiParameter("format", OpenApiTypes.STR, enum=list(FORMATS), default="csv"),
    OpenApiParameter(
        "flat",
        OpenApiTypes.BOOL,
        description=(
            "Whether each attribute and label has a column of its own, "
            "`attributes.NAME` and `labels.LANGUAGE`. Not for NDJSON."
        ),
        default=False,
    ),
]
# Described elsewhere: an item may be called like the action.
reading_or_export = operation(parameters=[*EXPORT, *PAST, *SHAPE])
reading_or_facets = operation(parameters=[*SELECTION, *PAST, *SHAPE])
export = operation(
    summary="Export items as a stream",
    description="All items that the parameters select, as a file.",
    operation_id="items_export",
    parameters=EXPORT,
    responses={
        (200, format.content_type.partition(";")[0]): (
            OpenApiTypes.BINARY if format.extension == "xlsx" else OpenApiTypes.STR
        )
        for format in FORMATS.values()
    },
)
facets = operation(
    summary="Count items by value",
    description=(
        "How many of the items that the parameters select are in each collection, and "
        "have each tag, each status and, within one `collection`, each value of its "
        f"filterable attributes: up to {VALUES_MAX} values, the most frequent first. "
        f"All items are counted up to {COUNTED_MAX:,}; of many more, the first {FEW:,} "
        "by name."
    ),
    operation_id="items_facets",
    parameters=SELECTION,
    responses={200: FacetsSerializer, 304: NOT_MODIFIED},
)
history = operation(
    summary="List the changes of one item, the latest first",
    description="The change log of an item, which outlives it.",
    operation_id="items_history",
    parameters=[ID, PAGE_SIZE_PARAMETER, CURSOR],
    responses={200: ChangeListSerializer, 304: NOT_MODIFIED},
)
children = operation(
    summary="List the items directly below one, by name",
    description="Those whose `parent` it is. All levels: `items?ancestor=`.",
    operation_id="items_children",
    parameters=[ID, PAGE_SIZE_PARAMETER, CURSOR],
    responses={200: ItemListSerializer, 304: NOT_MODIFIED, **GONE},
)
ancestors = operation(
    summary="List the items above one, from the top down",
    description="The way from the top of the hierarchy to its `parent`.",
    operation_id="items_ancestors",
    parameters=[ID],
    responses={200: ItemsSerializer(), 304: NOT_MODIFIED, **GONE},
)
references = operation(
    summary="List the items that refer to one, by id",
    description=(
        "`fields` says how each of them refers to it: `parent`, `replaced_by`, "
        "`links.exactMatch` or another relation, or `attributes.NAME` where the schema "
        "of a collection declares that attribute as a reference."
    ),
    operation_id="items_references",
    parameters=[ID, PAGE_SIZE_PARAMETER, CURSOR],
    responses={200: ReferenceListSerializer, 304: NOT_MODIFIED, **GONE},
)
SINCE = OpenApiParameter(
    "since",
    OpenApiTypes.STR,
    description=(
        "As given in `next`, or the `id` of an event; empty: all; `now`: the end."
    ),
)
CHANGES_OF = OpenApiParameter(
    "collection",
    OpenApiTypes.STR,
    description=(
        "The key of a collection: only changes of items that are in it, or were before "
        "the change; and entries whose contents were removed. A page may be empty "
        "although more follow: return to `next`."
    ),
)
PREFER = header(
    "Prefer",
    "`wait=N` responds when there is a change, after N seconds at most (RFC 7240).",
)
ORDER = (
    "Of two changes of one item that were made at the same time, the later one may "
    "come first: it is the one with the higher `version`."
)
EPOCH = (
    "After an older backup was restored, a position from before gives 400 with the "
    "code `epoch_changed`: start over with all items."
)
changes = operation(
    summary="List the changes of all items, as they become final",
    description=(
        "No change is left out. `next` is always present: return to it for new "
        f"changes. {ORDER} {EPOCH}"
    ),
    parameters=[PAGE_SIZE_PARAMETER, SINCE, CHANGES_OF, PREFER],
    responses={200: ChangeFeedSerializer, 304: NOT_MODIFIED},
)
change_events = operation(
    summary="Follow the changes of all items",
    operation_id="changes_events",
    description=(
        "Server-sent events: one `change` for each, as in the list but without "
        "`actor`. The `id` of an event is the position after it: browsers send the "
        "last one when they reconnect. A stream may end at any time, such as when its "
        "client reads too slowly, or is so far behind that it gets one page at a time. "
        f"No change is left out. {ORDER} {EPOCH}"
    ),
    parameters=[
        SINCE,
        CHANGES_OF,
        header("Last-Event-ID", "Takes precedence over `since`."),
    ],
    responses=events_of("The data are the change, as JSON."),
)
