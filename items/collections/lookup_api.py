"""REST views of lookup and translation: one code by GET, up to 1,000 by POST.

A POST is a read here, which the edge answers of the responses that it has cached for
GET, and the other way round.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import orjson
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from items import rules
from items.collections.lookup import (
    CODES_MAX,
    CodeUnknown,
    Day,
    Found,
    look_up,
    translate,
)
from items.field_types import IdSerializerField
from resilient_site.api.authentication import ReadOnly
from resilient_site.api.schema import NOT_MODIFIED, operation
from resilient_site.api.unknown_names import UnknownField, find_unknown
from resilient_site.api.views import StrictView, is_lenient
from resilient_site.edge.policy import Batch, policy
from resilient_site.errors import Invalid, problem, respond
from resilient_site.resilience.cache_control import Part, share, share_parts

LOOKUP, TRANSLATION = ("code", "language", "valid_on"), ("code", "to")
LOOKUPS = Batch("codes", "code", CODES_MAX, {"found": False})
TRANSLATIONS = Batch("codes", "code", CODES_MAX, {"found": False})

type Values = Mapping[str, str]


class SuccessorSerializer(serializers.Serializer[Any]):
    id = IdSerializerField()
    code = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]


class LookupResultSerializer(serializers.Serializer[Any]):
    """What a code means; of an unknown one only `code` and `found`."""

    absent_from_some = {
        "id", "label", "language", "status", "valid", "valid_on", "successor",
    }  # fmt: skip

    code = serializers.CharField(help_text="As it was asked for.")
    found = serializers.BooleanField()
    id = IdSerializerField()
    label = serializers.CharField()  # type: ignore[assignment]
    language = serializers.CharField(
        allow_null=True, help_text="Of the label; null if it is the name."
    )
    status = serializers.ChoiceField(rules.STATUSES)
    valid = serializers.BooleanField(
        help_text=(
            "Whether the day is one of its own. A draft never is; a retired item is up "
            "to its last day, if that is known."
        )
    )
    valid_on = serializers.DateField(help_text="The day that `valid` is about.")
    successor = SuccessorSerializer(
        allow_null=True, help_text="What replaces it in the end."
    )


@extend_schema_serializer(many=False)
class LookupResultsSerializer(serializers.Serializer[Any]):
    results = LookupResultSerializer(many=True)


class MappingSerializer(serializers.Serializer[Any]):
    relation = serializers.ChoiceField(rules.RELATIONS)
    id = IdSerializerField()
    code = serializers.CharField()
    collection = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]


class TranslationSerializer(serializers.Serializer[Any]):
    """The items that a code is linked with; of an unknown one `code` and `found`."""

    absent_from_some = {"id", "mappings"}

    code = serializers.CharField(help_text="As it was asked for.")
    found = serializers.BooleanField()
    id = IdSerializerField()
    mappings = MappingSerializer(many=True)


@extend_schema_serializer(many=False)
class TranslationsSerializer(serializers.Serializer[Any]):
    results = TranslationSerializer(many=True)


class BatchSerializer(serializers.Serializer[Any]):
    codes = serializers.ListField(
        child=serializers.CharField(), min_length=1, max_length=CODES_MAX
    )


class LookupBatchSerializer(BatchSerializer):
    valid_on = serializers.DateField(required=False)
    language = serializers.CharField(required=False)


class TranslateBatchSerializer(BatchSerializer):
    to = serializers.CharField()


CODE = OpenApiParameter("code", OpenApiTypes.STR, required=True)
VALID_ON = OpenApiParameter(
    "valid_on", OpenApiTypes.DATE, description="Today (UTC) unless given."
)
LANGUAGE = OpenApiParameter(
    "language",
    OpenApiTypes.STR,
    description=(
        "The tag of a language, such as `de-CH`: the label in it, or else in `de`, or "
        "else the name."
    ),
)
TO = OpenApiParameter(
    "to", OpenApiTypes.STR, required=True, description="The key of a collection."
)
BY_CODE = "Found by their code alone, as it is written, and not by an alias."


class ReadingView(StrictView):
    """View of one code, and of many: `read` says what of each is found."""

    permission_classes = [ReadOnly]
    parameters: ClassVar[tuple[str, ...]]

    def read(
        self, key: str, codes: Sequence[str], values: Values
    ) -> tuple[list[Found], float]:
        """Return what is found, and for how many seconds that is true."""
        raise NotImplementedError

    def read_one(self, request: Request, key: str) -> HttpResponseBase:
        given = request.query_params
        twice = [name for name in self.parameters if len(given.getlist(name)) > 1]
        if twice:
            raise Invalid(errors={name: ["Give it once."] for name in twice})
        if not given.get("code"):
            raise Invalid(errors={"code": ["This parameter is required."]})
        values = {name: given[name] for name in self.parameters[1:] if given.get(name)}
        [(result, tags)], true_for_s = self.read(key, [given["code"]], values)
        response: HttpResponseBase
        if result is None:
            response = respond(request, CodeUnknown())
        else:
            response = Response(result)
        share(response, *tags, true_for_s=true_for_s)
        return response

    def read_many(self, request: Request, key: str) -> HttpResponse:
        body = request.data
        if not isinstance(body, dict):
            raise Invalid("The body must be a JSON object.")
        known = ("codes", *self.parameters[1:])
        if not is_lenient(request) and (unknown := find_unknown(body, known)):
            raise UnknownField(errors=unknown)
        codes = body.get("codes")
        if not isinstance(codes, list) or not 1 <= len(codes) <= CODES_MAX:
            message = f"Must be a list of 1 to {CODES_MAX:,} codes."
            raise Invalid(errors={"codes": [message]})
        if not all(isinstance(code, str) for code in codes):
            raise Invalid(errors={"codes": ["Each code must be text."]})
        values = {name: body[name] for name in known[1:] if body.get(name) is not None}
        found, true_for_s = self.read(key, codes, values)
        # The edge sends it with the id of the request that it answers.
        absent = orjson.dumps(problem(request, CodeUnknown()) | {"request_id": ""})
        results, parts = [], []
        for code, (result, tags) in zip(codes, found, strict=True):
            results.append(orjson.dumps(result or {"code": code, "found": False}))
            parts.append(
                Part(200, results[-1], tags) if result else Part(404, absent, tags)
            )
        content = b'{"results":[%b]}' % b",".join(results)
        response = HttpResponse(content, "application/json")
        share_parts(response, parts, true_for_s)
        return response


def _clean[T](name: str, clean: Callable[[object], T], value: object) -> T:
    try:
        return clean(value)
    except ValueError as error:
        raise Invalid(errors={name: [str(error)]}) from error


class LookupView(ReadingView):
    parameters = LOOKUP

    def read(
        self, key: str, codes: Sequence[str], values: Values
    ) -> tuple[list[Found], float]:
        day = Day.today()
        if on := _clean("valid_on", rules.clean_date, values.get("valid_on")):
            day = Day(on)
        language = ""
        if given := values.get("language"):
            language = _clean("language", rules.clean_language, given)
        found = look_up(key, codes, day=day.date, language=language)
        return found, day.lasts_s

    @policy(shared=LOOKUP)
    @operation(
        summary="Look up a code",
        description=(
            "Whether it is valid, what it is called, and what replaces it. An unknown "
            f"one is 404 `code_unknown`. {BY_CODE}"
        ),
        operation_id="collections_lookup",
        parameters=[CODE, VALID_ON, LANGUAGE],
        responses={200: LookupResultSerializer, 304: NOT_MODIFIED},
    )
    def get(self, request: Request, key: str) -> HttpResponseBase:
        return self.read_one(request, key)

    @policy(batch=LOOKUPS, write_rate="read")
    @operation(
        summary="Look up many codes",
        description=(
            "Up to 1,000. The results are in the order of the codes; an unknown one is "
            f"`found: false`. {BY_CODE} Nothing is changed: it may be repeated."
        ),
        operation_id="collections_lookup_many",
        request=LookupBatchSerializer,
        responses=LookupResultsSerializer,
    )
    def post(self, request: Request, key: str) -> HttpResponse:
        return self.read_many(request, key)


class TranslateView(ReadingView):
    parameters = TRANSLATION

    def read(
        self, key: str, codes: Sequence[str], values: Values
    ) -> tuple[list[Found], float]:
        if "to" not in values:
            raise Invalid(errors={"to": ["The key of a collection is required."]})
        to = _clean("to", rules.clean_key, values["to"])
        return translate(key, codes, to=to), math.inf

    @policy(shared=TRANSLATION)
    @operation(
        summary="Translate a code to another collection",
        description=(
            "The items of `to` that the code is linked with, by links in either "
            "direction. An unknown code is 404 `code_unknown`."
        ),
        operation_id="collections_translate",
        parameters=[CODE, TO],
        responses={200: TranslationSerializer, 304: NOT_MODIFIED},
    )
    def get(self, request: Request, key: str) -> HttpResponseBase:
        return self.read_one(request, key)

    @policy(batch=TRANSLATIONS, write_rate="read")
    @operation(
        summary="Translate many codes to another collection",
        description="Up to 1,000, in the order of the codes. Nothing is changed.",
        operation_id="collections_translate_many",
        request=TranslateBatchSerializer,
        responses=TranslationsSerializer,
    )
    def post(self, request: Request, key: str) -> HttpResponse:
        return self.read_many(request, key)
