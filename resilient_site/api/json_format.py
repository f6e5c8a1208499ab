"""JSON in requests and in responses, whatever the client accepts."""

import json
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

import orjson
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.http import parse_header_parameters
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
WANTED = "JSON must be in UTF-8 (RFC 8259, section 8.1)"


class JSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Any = None
    ) -> Any:
        charset = parse_header_parameters(media_type or "")[1].get("charset", "utf-8")
        if charset.lower() not in CHARSETS:
            raise UnsupportedMediaType(charset, f"{WANTED}, not in {charset[:50]}.")
        body = stream.read()
        encoding = json.detect_encoding(body)
        if encoding == "utf-8-sig":
            body = body.removeprefix(BOM_UTF8)
        elif encoding != "utf-8":
            raise ParseError(f"{WANTED}; this one is in {encoding.upper()}.")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ParseError(f"The body is not JSON: {error}") from error


class MergePatchParser(JSONParser):
    media_type = "application/merge-patch+json"


def is_merge_patch(request: Request) -> bool:
    media_type = request.content_type.partition(";")[0].strip().lower()
    return media_type == MergePatchParser.media_type


def merge_patch(target: Any, patch: Any, *, levels: int = 4) -> Any:
    """Return what a JSON merge patch makes of a document (RFC 7396, section 2).

    Below so many `levels`, where no document of the site has objects, it is taken as
    it is: it would be rejected in any case.
    """
    if not isinstance(patch, Mapping) or not levels:
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value, levels=levels - 1)
    return merged


def encode(value: Any) -> bytes:
    """Return JSON text: also of what orjson refuses.

    SQL can write a number of more than 64 bits. It must not keep all other changes from
    the broker, or all other items of a page from its readers.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError:
        return json.dumps(value, cls=DjangoJSONEncoder).encode()


class JSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Any = None,
    ) -> bytes:
        return b"" if data is None else encode(data)


class FirstRenderer(DefaultContentNegotiation):
    """Takes the view's first renderer: of more use than 406 (RFC 9110, 12.4.1)."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        return renderers[0], renderers[0].media_type
