"""The memory of the process that answers, for administrators over REST.

Which process that is, of several, is chance: every answer says its pid.
"""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from resilient_site.observability import memory_profiling
from resilient_site.observability.memory_usage import heap

MOST_LINES = 100


class IsAdministrator(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        user = request.user
        return bool(user and user.is_active and user.is_superuser)


class Lines(serializers.Serializer[Any]):
    lines = serializers.IntegerField(min_value=1, max_value=MOST_LINES, default=25)


class Switch(serializers.Serializer[Any]):
    tracing = serializers.BooleanField()


@extend_schema(exclude=True)
class HeapView(APIView):
    permission_classes = [IsAdministrator]

    def get(self, request: Request) -> Response:
        asked = Lines(data=request.query_params)
        asked.is_valid(raise_exception=True)
        return _answer(asked.validated_data["lines"])

    def post(self, request: Request) -> Response:
        """Begin to trace where memory is taken, or end it."""
        asked = Switch(data=request.data)
        asked.is_valid(raise_exception=True)
        if asked.validated_data["tracing"]:
            memory_profiling.start()
        else:
            memory_profiling.stop()
        return _answer(lines=1)


def _answer(lines: int) -> Response:
    figures = {"heap": heap(), **memory_profiling.report(lines)}
    return Response(figures, headers={"Cache-Control": "no-store"})
