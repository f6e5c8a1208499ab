"""`Idempotency-Key`: a write that is sent again is not done again.

The first answer to a write is stored in the transaction of the write, so that there
are both or neither, whatever dies in between. For 24 hours the same request of the
same person with the same key gets that answer. The request waits for nobody: while
the first one is under way, PostgreSQL answers 409 at once. SQLite has one writer at a
time, so there it waits for the write lock, as any write does, and finds the answer.

Stored is what came of the write: success, and a refusal that what is in the database
decided (an id that is taken, a version that is stale, nothing there). Otherwise a
request that comes late a second time would do what the first did not. Nothing is
stored where the request itself was wrong, not allowed, or too much at the moment, and
nothing where we failed: it was not carried out, and may be sent again.
"""

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any, cast

import orjson
from django.contrib.auth.models import User
from django.core.files.uploadedfile import UploadedFile
from django.db import connection, transaction
from django.http import HttpResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from resilient_site.api import conditional
from resilient_site.edge.cache.invalidation import invalidate, to_be_invalidated
from resilient_site.errors import Conflict, Invalid, NotSignedIn, SiteError
from resilient_site.models import IdempotencyRecord
from resilient_site.resilience.cache_control import TAGS
from resilient_site.resilience.transactions import atomic_with_retries

logger = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
# As Stripe calls it; the draft of the standard has no name for it.
REPLAYED_HEADER = "Idempotent-Replayed"
WRITING = ("post", "put", "patch", "delete")
KEPT_FOR = timedelta(hours=24)
KEY_MAX = 255
# Visible ASCII, bare or as a string (RFC 9651), in which `"` and `\` would be special.
KEY_CHARACTERS = rf"[!#-\[\]-~]{{1,{KEY_MAX}}}"
KEY_PATTERN = rf'^("{KEY_CHARACTERS}"|{KEY_CHARACTERS})$'
DELETED_AT_ONCE = 1_000

_is_key = re.compile(KEY_PATTERN).fullmatch


class KeyReused(SiteError):
    status = 422
    code = "idempotency_key_reused"
    detail = "This Idempotency-Key was used before, for another request."


class KeyInUse(Conflict):
    code = "idempotency_key_in_use"
    detail = "The first request with this Idempotency-Key is still being processed."
    retry_after_s = 1


class IdempotentWrites(APIView):
    # For every REST view that writes: its methods need know nothing of keys.

    def keeps_first_answer(self) -> bool:
        return True

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        method = str(request.method).lower()
        if method not in WRITING or not hasattr(self, method):
            return
        key = read_key(request)
        if key and self.keeps_first_answer():
            write = partial(self._write_once, getattr(self, method), key)
            setattr(self, method, write)

    def _write_once(
        self,
        handler: Callable[..., HttpResponse],
        key: str,
        request: Request,
        **kw: Any,
    ) -> HttpResponse:
        if not isinstance(request.user, User):
            raise NotSignedIn("Who sends an Idempotency-Key has to say who he is.")
        write = partial(self._outcome, handler, request, **kw)
        return answer_once(request.user, key, fingerprint(request), write)

    def _outcome(
        self, handler: Callable[..., HttpResponse], request: Request, **kwargs: Any
    ) -> HttpResponse:
        """Return what came of the write, as it will be sent."""
        try:
            with transaction.atomic():
                response = handler(request, **kwargs)
        except SiteError as error:
            if not error.is_outcome:
                raise
            response = self.handle_exception(error)
        final: HttpResponse = self.finalize_response(request, cast(Response, response))
        return final.render() if isinstance(final, Response) else final


@atomic_with_retries
def answer_once(
    owner: User, key: str, asked: str, write: Callable[[], HttpResponse]
) -> HttpResponse:
    """Return the answer of `write`, or the one that this key of `owner` gave before.

    `asked` is the fingerprint of the request. Raises KeyInUse and KeyReused.
    """
    _take_turn(owner, key)
    if earlier := _earlier(owner, key):
        if earlier.fingerprint != asked:
            raise KeyReused
        logger.info("Answered again, as %s.", earlier)
        return _replay(earlier)
    response = write()
    if response.status_code >= 500:
        transaction.set_rollback(True)
        return response
    IdempotencyRecord.objects.create(
        owner=owner,
        key=key,
        fingerprint=asked,
        status=response.status_code,
        headers=[*response.items(), (TAGS, " ".join(to_be_invalidated()))],
        body=response.content,
    )
    return response


def read_key(request: Request) -> str | None:
    """Return the key that came with the request, without quotes, if any.

    Raises Invalid if that is none.
    """
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not _is_key(given):
        message = (
            f'Must be 1 to {KEY_MAX} visible ASCII characters, without " and \\ '
            "among them; it may stand in quotes."
        )
        raise Invalid(errors={HEADER: [message]})
    return given.strip('"')


def fingerprint(request: Request) -> str:
    """Return a digest of all that the request asks for; files are read in pieces."""
    asked = [
        request.method,
        request.get_full_path(),
        request.content_type.partition(";")[0],
        *(request.headers.get(name.decode()) for name in conditional.HEADERS),
        request.data,
    ]
    try:
        content = orjson.dumps(asked, _digest_of_file, orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise Invalid(f"The body cannot be told from others: {error}") from error
    return sha256(content).hexdigest()


def forget_old() -> int:
    """Delete the answers that are no longer given; return how many."""
    old = IdempotencyRecord.objects.filter(created_at__lt=timezone.now() - KEPT_FOR)
    batch = old.order_by("created_at").values("pk")[:DELETED_AT_ONCE]
    deleted = 0
    while number := IdempotencyRecord.objects.filter(pk__in=batch).delete()[0]:
        deleted += number
    return deleted


def _digest_of_file(value: object) -> str:
    if not isinstance(value, UploadedFile):
        raise TypeError
    digest = sha256(repr(value.name).encode())
    for chunk in value.chunks():
        digest.update(chunk)
    value.seek(0)
    return digest.hexdigest()


def _take_turn(owner: User, key: str) -> None:
    """Raise KeyInUse while another transaction has the turn of this key."""
    if connection.vendor != "postgresql":
        return  # it has the write lock
    digest = sha256(f"{owner.pk} {key}".encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        if not cursor.fetchone()[0]:
            raise KeyInUse


def _earlier(owner: User, key: str) -> IdempotencyRecord | None:
    record = IdempotencyRecord.objects.filter(owner=owner, key=key).first()
    if record and record.created_at < timezone.now() - KEPT_FOR:
        record.delete()
        return None
    return record


def _replay(record: IdempotencyRecord) -> HttpResponse:
    response = HttpResponse(bytes(record.body), status=record.status)
    del response["Content-Type"]
    for name, value in record.headers:
        response[name] = value
    # Whoever was killed after the commit, or lost the connection, has told nobody.
    invalidate(*response.get(TAGS, "").split())
    del response[TAGS]
    response[REPLAYED_HEADER] = "true"
    return response
