"""`Idempotency-Key`: a write that is repeated is carried out once.

The first response to a write is stored in the transaction of the write, so that both
exist or neither, whatever is killed in between. While the first request is still being
processed, PostgreSQL answers 409 at once; on SQLite, which has one writer at a time,
the repeated request waits.

What is stored is success, or a failure that the state of the database decided (an id
that is taken, a stale version, no such item). All other requests can be repeated.
"""

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from hashlib import sha256
from typing import Concatenate, cast

import orjson
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.http import HttpResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from resilient_site.api import conditional
from resilient_site.edge.cache.invalidation import invalidate, pending_tags
from resilient_site.errors import Conflict, Invalid, SiteError
from resilient_site.models import IdempotencyRecord
from resilient_site.resilience.cache_control import TAGS
from resilient_site.resilience.transactions import atomic_with_retries

logger = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
# The name that Stripe uses; the draft of the standard has none.
REPLAYED_HEADER = "Idempotent-Replayed"
RETENTION = timedelta(hours=24)
KEY_MAX = 255
# Visible ASCII, bare or as a string (RFC 9651), in which `"` and `\` would be special.
KEY_CHARACTERS = rf"[!#-\[\]-~]{{1,{KEY_MAX}}}"
KEY_PATTERN = rf'^("{KEY_CHARACTERS}"|{KEY_CHARACTERS})$'
DELETE_BATCH = 5_000

_is_key = re.compile(KEY_PATTERN).fullmatch


class KeyReused(SiteError):
    status = 422
    code = "idempotency_key_reused"
    detail = "This Idempotency-Key was used before, for another request."


class KeyInUse(Conflict):
    code = "idempotency_key_in_use"
    detail = "The first request with this Idempotency-Key is still being processed."
    retry_after_s = 1


def idempotent[V: APIView, **P](
    write: Callable[Concatenate[V, Request, P], HttpResponse],
) -> Callable[Concatenate[V, Request, P], HttpResponse]:
    """Have a method of a REST view accept a key: the view itself need not handle it."""

    @wraps(write)
    def write_once(
        view: V, request: Request, /, *args: P.args, **kwargs: P.kwargs
    ) -> HttpResponse:
        key = read_key(request)
        if key is None:
            return write(view, request, *args, **kwargs)

        def outcome() -> HttpResponse:
            """Return the response to the write, as it will be sent."""
            try:
                with transaction.atomic():
                    response = write(view, request, *args, **kwargs)
            except SiteError as error:
                if not error.is_outcome:
                    raise
                response = view.handle_exception(error)
            final: HttpResponse
            final = view.finalize_response(request, cast(Response, response))
            if isinstance(final, Response):
                final.render()
            return final

        owner = cast(User, request.user)  # nobody else may write
        return run_once(owner, key, request_fingerprint(request), outcome)

    return write_once


@atomic_with_retries
def run_once(
    owner: User, key: str, fingerprint: str, write: Callable[[], HttpResponse]
) -> HttpResponse:
    """Return the response of `write`, or the one stored for this key of `owner`."""
    _lock_key(owner, key)
    if earlier := _earlier(owner, key):
        if earlier.fingerprint != fingerprint:
            raise KeyReused
        logger.info("Replayed the stored response: %s.", earlier)
        return _replay(earlier)
    response = write()
    IdempotencyRecord.objects.create(
        owner=owner,
        key=key,
        fingerprint=fingerprint,
        status=response.status_code,
        headers=[*response.items(), (TAGS, " ".join(pending_tags()))],
        body=response.content,
    )
    return response


def read_key(request: Request) -> str | None:
    """Return the key of the request without quotes; None if it has none."""
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not _is_key(given):
        message = (
            f'Must be 1 to {KEY_MAX} visible ASCII characters other than " and \\; '
            "double quotes around it are allowed."
        )
        raise Invalid(errors={HEADER: [message]})
    return given.strip('"')


def has_outcome(request: Request) -> bool:
    """Return whether the response to this request, or its key, is stored already."""
    key, since = read_key(request), timezone.now() - RETENTION
    records = IdempotencyRecord.objects.filter(key=key, created_at__gte=since)
    return key is not None and records.filter(owner=cast(User, request.user)).exists()


def request_fingerprint(request: Request) -> str:
    """Return a digest of everything that the request says; raises Invalid for files."""
    parts = [
        request.method,
        request.get_full_path(),
        request.content_type.partition(";")[0],
        *(request.headers.get(name.decode()) for name in conditional.HEADERS),
        request.data,
    ]
    try:
        content = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise Invalid(f"The body cannot be compared with others: {error}") from error
    return sha256(content).hexdigest()


def delete_expired() -> int:
    """Delete some of the responses that are no longer replayed; return how many."""
    old = IdempotencyRecord.objects.filter(created_at__lt=timezone.now() - RETENTION)
    batch = old.order_by("created_at").values("pk")[:DELETE_BATCH]
    return IdempotencyRecord.objects.filter(pk__in=batch).delete()[0]


def _lock_key(owner: User, key: str) -> None:
    """Raise KeyInUse while another transaction holds the lock of this key."""
    if connection.vendor != "postgresql":
        return  # the transaction holds the write lock
    digest = sha256(f"{owner.pk} {key}".encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        if not cursor.fetchone()[0]:
            raise KeyInUse


def _earlier(owner: User, key: str) -> IdempotencyRecord | None:
    record = IdempotencyRecord.objects.filter(owner=owner, key=key).first()
    if record and record.created_at < timezone.now() - RETENTION:
        record.delete()
        return None
    return record


def _replay(record: IdempotencyRecord) -> HttpResponse:
    response = HttpResponse(bytes(record.body), status=record.status)
    del response["Content-Type"]
    for name, value in record.headers:
        response[name] = value
    # A process that was killed after the commit has not published its invalidation.
    invalidate(*response.get(TAGS, "").split())
    del response[TAGS]
    response[REPLAYED_HEADER] = "true"
    return response
