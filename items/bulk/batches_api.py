"""REST views of batches of changes, and of their undo."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema_serializer
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from items.bulk import undo
from items.bulk.batches import BATCHES
from items.bulk.undo import CHANGES_AT_ONCE
from items.bulk.undo_conflicts import CONFLICTS_SHOWN, describe
from items.catalogue import ITEMS
from items.field_types import IdSerializerField
from items.models import ChangeBatch
from items.serializers import ChangeListSerializer, ChangeSerializer
from resilient_site.accounts.actor import Actor
from resilient_site.api.idempotency import idempotent
from resilient_site.api.keyset import paginate
from resilient_site.api.pagination import list_response, parse_flag, parse_page_size
from resilient_site.api.schema import (
    CURSOR,
    NOT_MODIFIED,
    PAGE_SIZE_PARAMETER,
    operation,
)
from resilient_site.api.unknown_names import UnknownField, find_unknown
from resilient_site.api.views import StrictView, is_lenient
from resilient_site.edge.policy import policy
from resilient_site.errors import Invalid, NotAllowed
from resilient_site.resilience.cache_control import share_with_anonymous

PAGING = ("cursor", "page_size")
LIST_PARAMETERS = ("kind", "undone", *PAGING)


class BatchSerializer(serializers.ModelSerializer[ChangeBatch]):
    """Changes that were made together. Who made them is shown to the authenticated."""

    kind = serializers.ChoiceField(
        ChangeBatch.Kind.choices, help_text="What has made them."
    )
    actor = serializers.SerializerMethodField()
    undoes = serializers.UUIDField(
        source="undoes_id", allow_null=True, help_text="Of an undo: what it undoes."
    )
    undone_by = serializers.SerializerMethodField(help_text="The undos of it.")

    class Meta:
        model = ChangeBatch
        fields = (
            "id", "kind", "title", "actor", "started_at", "finished_at", "created",
            "updated", "deleted", "undoes", "undone", "undone_by",
        )  # fmt: skip
        extra_kwargs = {
            "finished_at": {"help_text": "Null: it goes on, or was interrupted."},
            "undone": {"help_text": "Undone, and that undo not undone itself."},
        }

    def get_actor(self, batch: ChangeBatch) -> str | None:
        user = self.context["request"].user
        return batch.actor_name if user.is_authenticated else None

    def get_undone_by(self, batch: ChangeBatch) -> list[UUID]:
        return [undo.pk for undo in batch.undone_by.all()]


@extend_schema_serializer(many=False)
class BatchListSerializer(serializers.Serializer[Any]):
    results = BatchSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


class UndoSerializer(serializers.Serializer[Any]):
    skip_conflicts = serializers.BooleanField(
        default=False, help_text="Leave items with conflicts as they are."
    )


class ConflictSerializer(serializers.Serializer[Any]):
    """An item that cannot be as it was before the batch."""

    id = IdSerializerField()
    code = serializers.ChoiceField(
        ["changed_since", "purged", "item_referenced", "invalid"]
    )
    detail = serializers.CharField()
    version = serializers.IntegerField(help_text="The last one that the batch made.")
    version_now = serializers.IntegerField()
    changed_by = serializers.CharField(help_text="Who made the version now.")


class UndoneSerializer(serializers.Serializer[Any]):
    batch = serializers.UUIDField(
        allow_null=True, help_text="The undo; null if all is as before already."
    )
    created = serializers.IntegerField(min_value=0)
    updated = serializers.IntegerField(min_value=0)
    deleted = serializers.IntegerField(min_value=0)
    conflicts = ConflictSerializer(many=True)
    conflict_count = serializers.IntegerField(min_value=0)


ID = OpenApiParameter("id", OpenApiTypes.UUID, OpenApiParameter.PATH)


class BatchViewSet(StrictView, ViewSet):
    """Batches: changes of many items that were made together."""

    lookup_field = "id"
    lookup_value_regex = "[0-9a-fA-F-]{36}"

    @policy(shared=LIST_PARAMETERS)
    @operation(
        summary="List batches of changes, the latest first",
        description=(
            "Imports, bulk writes, jobs, and undos of these. Each entry of the change "
            "log has the id of its `batch`, or null."
        ),
        parameters=[
            OpenApiParameter("kind", enum=ChangeBatch.Kind.values),
            OpenApiParameter(
                "undone",
                OpenApiTypes.BOOL,
                description="Only those that are undone, or only those that are not.",
            ),
            PAGE_SIZE_PARAMETER,
            CURSOR,
        ],
        responses={200: BatchListSerializer, 304: NOT_MODIFIED},
    )
    def list(self, request: Request) -> Response:
        page = paginate(
            _selected(request).prefetch_related("undone_by"),
            ordering="-started_at",
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        rows = BatchSerializer(page.rows, many=True, context={"request": request})
        response = list_response(request, page, rows, known=LIST_PARAMETERS)
        share_with_anonymous(request, response, ITEMS, BATCHES)
        return response

    @policy(shared=())
    @operation(
        summary="Read a batch of changes",
        description="404 `batch_not_found` without one.",
        parameters=[ID],
        responses={200: BatchSerializer, 304: NOT_MODIFIED},
    )
    def retrieve(self, request: Request, id: str) -> Response:
        shown = BatchSerializer(_find(id), context={"request": request})
        response = Response(shown.data)
        response["Cache-Control"] = "no-cache"
        share_with_anonymous(request, response, ITEMS, BATCHES)
        return response

    @policy(shared=PAGING)
    @operation(
        summary="List the changes of a batch, the latest first",
        description="As in the history of an item.",
        operation_id="batches_changes",
        parameters=[ID, PAGE_SIZE_PARAMETER, CURSOR],
        responses={200: ChangeListSerializer, 304: NOT_MODIFIED},
    )
    @action(detail=True)
    def changes(self, request: Request, id: str) -> Response:
        page = paginate(
            _find(id).changes_in_log(),
            ordering="-id",
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        rows = ChangeSerializer(page.rows, many=True, context={"request": request})
        response = list_response(request, page, rows, known=PAGING)
        share_with_anonymous(request, response, ITEMS, BATCHES)
        return response

    @operation(
        summary="Undo a batch of changes",
        description=(
            "All of its items are as they were before: changed ones restored, created "
            "ones deleted, deleted ones created again, in one transaction. That is a "
            "batch itself, which can be undone. Items that others have changed since, "
            "or refer to, are conflicts: 409 `batch_changed_since`, with the first "
            f"{CONFLICTS_SHOWN} in `items` and their number in `count`; with "
            "`skip_conflicts` the others are undone. More than "
            f"{CHANGES_AT_ONCE:,} changes are 409 `batch_needs_job`: submit a job of "
            "the task `undo_batch`. Needs the permissions to add, change and delete "
            "items."
        ),
        operation_id="batches_undo",
        parameters=[ID],
        request=UndoSerializer,
        responses={200: UndoneSerializer},
    )
    @action(detail=True, methods=["post"])
    @idempotent
    def undo(self, request: Request, id: str) -> Response:
        if not request.user.has_perms(undo.PERMISSIONS):
            raise NotAllowed
        batch, conflicts = undo.undo_batch(
            _find(id).pk,
            actor=Actor.from_request(request),
            skip_conflicts=_skips_conflicts(request),
        )
        shown = describe(conflicts, CONFLICTS_SHOWN)
        return Response(
            {
                "batch": batch and batch.pk,
                "created": batch.created if batch else 0,
                "updated": batch.updated if batch else 0,
                "deleted": batch.deleted if batch else 0,
                "conflicts": [conflict.as_json() for conflict in shown],
                "conflict_count": len(conflicts),
            }
        )


def _selected(request: Request) -> QuerySet[ChangeBatch]:
    batches = ChangeBatch.objects.all()
    if kind := request.query_params.get("kind"):
        if kind not in ChangeBatch.Kind.values:
            names = ", ".join(ChangeBatch.Kind.values)
            raise Invalid(errors={"kind": [f"Must be one of {names}."]})
        batches = batches.filter(kind=kind)
    if request.query_params.get("undone"):
        batches = batches.filter(undone=parse_flag(request.query_params, "undone"))
    return batches


def _find(id: str) -> ChangeBatch:
    try:
        return undo.get_batch(UUID(id))
    except ValueError as error:
        raise undo.BatchNotFound from error


def _skips_conflicts(request: Request) -> bool:
    body = request.data
    if not isinstance(body, Mapping):
        message = "The body must be a JSON object."
        raise Invalid(errors={"non_field_errors": [message]})
    if not is_lenient(request) and (unknown := find_unknown(body, ["skip_conflicts"])):
        raise UnknownField(errors=unknown)
    skips = body.get("skip_conflicts", False)
    if not isinstance(skips, bool):
        raise Invalid(errors={"skip_conflicts": ["Must be true or false."]})
    return skips
