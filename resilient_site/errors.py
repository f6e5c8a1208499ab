"""The errors of this project, and the one place that makes responses of them.

REST clients get ``application/problem+json`` (RFC 9457) with a stable ``code``;
browsers get an error page. A text says what happened, what it means for the person, and
what to do.
"""

import errno
import logging
import sqlite3
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from django.contrib.auth.context_processors import PermWrapper
from django.core import exceptions as django_errors
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.template.context_processors import csrf
from django.template.loader import render_to_string
from psycopg.errors import LockNotAvailable, ReadOnlySqlTransaction
from rest_framework import exceptions as drf_errors

from resilient_site.observability.request_id import current_request_id
from resilient_site.pages import sent_form
from resilient_site.postgres.connection import CommitUnknown, WaitCancelled
from resilient_site.resilience import breakers

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
# Of every 401 of the REST API (RFC 6750, section 3).
CHALLENGE = 'Bearer realm="api"'
REST_PATH = "/api/"

# All codes of problem documents, for the OpenAPI schema.
CODES = (
    "already_exists", "already_finished", "authentication_failed",
    "batch_changed_since", "batch_needs_job", "batch_not_found", "cancelled",
    "change_purged", "code_unknown", "collection_exists", "collection_in_use",
    "collection_not_found", "conflict", "csrf_failed", "deadline_passed",
    "epoch_changed", "error", "failed", "files_unavailable", "host",
    "idempotency_key_in_use", "idempotency_key_reused", "invalid", "item_deleted",
    "item_exists",
    "item_not_found", "item_purged", "item_referenced", "job_not_found",
    "length_required", "locked_out", "method_not_allowed", "not_authenticated",
    "not_finished", "not_found", "overloaded", "parse_error", "permission_denied",
    "precondition_failed", "precondition_required", "queue_full",
    "range_not_satisfiable", "rate_limited", "schema_breaks_items",
    "schema_needs_job", "server_error", "stale_version", "tag_exists", "tag_in_use",
    "tag_needs_job", "tag_not_found", "task_not_found",
    "too_large", "too_many_at_once", "too_many_jobs", "too_many_requests",
    "too_many_tokens", "too_slow", "unavailable", "unknown_field",
    "unknown_parameter", "unreadable_file", "unsupported_content_encoding",
    "unsupported_media_type", "version_not_found",
)  # fmt: skip

# Field name (or index, in a list) to its messages, nested as the input is.
type Errors = Mapping[str, Any]


class SiteError(Exception):
    """An error with its response: status, stable code and advice to the client."""

    status: int = 500
    code: str = "server_error"
    detail: str = "The site has made an error. Please try again."
    retry_after_s: int | None = None
    type: str = "about:blank"
    # The outcome of a write that was valid in itself: Idempotency-Key stores it.
    is_outcome: bool = False

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Errors | None = None,
        retry_after_s: int | None = None,
        status: int | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status or self.status
        self.code = code or self.code
        self.detail = detail or self.detail
        self.errors = errors
        self.retry_after_s = retry_after_s or self.retry_after_s
        self.headers = dict(headers or {})
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", CHALLENGE)
        self.members = dict(members or {})
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase


class Invalid(SiteError):
    status = 400
    code = "invalid"
    detail = "The request is not valid."


class AlreadyExists(SiteError):
    status = 400
    code = "already_exists"
    detail = "It already exists"
    is_outcome = True


class NotSignedIn(SiteError):
    status = 401
    code = "not_authenticated"
    detail = "To do this, sign in or send an API token."


class NotAllowed(SiteError):
    status = 403
    code = "permission_denied"
    detail = "You are not allowed to do this."


class NotFound(SiteError):
    status = 404
    code = "not_found"
    detail = "There is nothing at this address."
    is_outcome = True


class Conflict(SiteError):
    status = 409
    code = "conflict"
    detail = "This conflicts with another change. Load it again, then repeat yours."
    is_outcome = True


class LengthRequired(SiteError):
    status = 411
    code = "length_required"
    detail = "The request has a body of unknown length. Send it with a Content-Length."


class PreconditionFailed(SiteError):
    status = 412
    code = "precondition_failed"
    detail = "It exists in a version that If-None-Match excludes. Nothing was changed."
    is_outcome = True


class StaleVersion(PreconditionFailed):
    code = "stale_version"
    detail = "It was changed since you read it. Read it again, then repeat the request."


class TooLarge(SiteError):
    status = 413
    code = "too_large"
    detail = "The request is larger than this address accepts. Nothing was changed."


class PreconditionRequired(SiteError):
    status = 428
    code = "precondition_required"
    detail = (
        "This site accepts changes only to a version that you have read: send its ETag "
        "in If-Match."
    )


class TooManyRequests(SiteError):
    status = 429
    code = "too_many_requests"
    detail = "You have sent too many requests. Please wait before you send more."


class LockedOut(SiteError):
    status = 429
    code = "locked_out"
    detail = (
        "Too many attempts to sign in have failed. Please wait before the next one."
    )


class Unavailable(SiteError):
    status = 503
    code = "unavailable"
    detail = "The database does not answer at the moment. Nothing was changed."
    retry_after_s = 5


class Locked(Unavailable):
    detail = (
        "Another process has locked the data for longer than a request may wait. "
        "Nothing was changed. Please try again."
    )
    retry_after_s = 1


class DeadlinePassed(SiteError):
    status = 503
    code = "deadline_passed"
    detail = "The site could not answer within the time limit. Please try again."
    retry_after_s = 1


class Overloaded(SiteError):
    status = 503
    code = "overloaded"
    detail = "The site has more requests than it can process. Please try again shortly."
    retry_after_s = 1


def as_site_error(exc: BaseException | None) -> SiteError:
    """Return the error to respond with: `exc` itself, a mapped one, or a plain 500."""
    match exc:
        case SiteError():
            return exc
        case drf_errors.APIException():
            return _from_rest_framework(exc)
        case (
            OperationalError()
            | InterfaceError()
            # A standby, or what was the primary until another one took over.
            | InternalError(__cause__=ReadOnlySqlTransaction())
        ):
            return _from_database(exc)
        case OSError() if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            breakers.disk.degrade(exc)
            return Unavailable("The disk of the site is full. Nothing was changed.")
        case Http404():
            return NotFound()
        case django_errors.PermissionDenied():
            return NotAllowed(str(exc) or None)
        case django_errors.RequestDataTooBig():
            return TooLarge()
        case django_errors.DisallowedHost():
            return Invalid("This site does not serve that host name.", code="host")
        case (
            django_errors.SuspiciousOperation()
            | django_errors.BadRequest()
            | MultiPartParserError()
        ):
            return Invalid()
        case _:
            return SiteError()


def _from_database(exc: DatabaseError | InterfaceError) -> SiteError:
    if not isinstance(exc.__cause__, WaitCancelled):  # else it was logged before
        breakers.database.degrade(exc)
    if isinstance(exc, CommitUnknown):
        return Unavailable(
            "The connection to the database broke while this was being saved. Check "
            "whether it was, or send it again with the same Idempotency-Key."
        )
    if is_locked(exc):
        return Locked()
    if isinstance(exc.__cause__, ReadOnlySqlTransaction):
        return Unavailable(
            "The database accepts no changes at the moment. Nothing was changed."
        )
    return Unavailable()


def is_locked(error: BaseException) -> bool:
    """Return whether the wait for a lock in the database was too long."""
    cause = error.__cause__
    # The low byte is the error, the rest its kind.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    return isinstance(cause, LockNotAvailable) or code == sqlite3.SQLITE_BUSY


def is_unexpected(error: SiteError) -> bool:
    """Return whether this is a fault of the site, to be logged and reported."""
    return type(error) is SiteError and error.status == 500


def _from_rest_framework(exc: drf_errors.APIException) -> SiteError:
    if isinstance(exc, drf_errors.ValidationError):
        return Invalid(errors=_by_field(exc.detail))
    return SiteError(
        str(exc.detail), status=exc.status_code, code=str(exc.default_code)
    )


def _by_field(detail: Any) -> Errors:
    """Give list-shaped details of a validation error the shape of a mapping."""
    if isinstance(detail, Mapping):
        return {
            str(field): _by_field(value) if isinstance(value, Mapping) else value
            for field, value in detail.items()
        }
    if detail and all(isinstance(entry, Mapping) for entry in detail):
        return {str(n): _by_field(entry) for n, entry in enumerate(detail) if entry}
    return {"non_field_errors": detail}


def is_rest(request: HttpRequest) -> bool:
    return request.path.startswith(REST_PATH)


def respond(request: HttpRequest, error: SiteError) -> HttpResponse:
    """Return the response to `error`: a problem document for REST, else a page."""
    if is_rest(request):
        # The entries of a list are keyed by their number.
        option = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
        content = orjson.dumps(problem(request, error), option=option)
        content_type = PROBLEM_TYPE
    else:
        page = _page(request, error)
        content, content_type = page.encode(), "text/html; charset=utf-8"
    response = HttpResponse(content, content_type, error.status, headers=error.headers)
    response["Cache-Control"] = "no-store"
    if error.retry_after_s is not None:
        response["Retry-After"] = str(error.retry_after_s)
    return response


def _page(request: HttpRequest, error: SiteError) -> str:
    """Return the error page, with the form whose sending has failed, to send again."""
    context: dict[str, Any] = {
        "error": error,
        "request_id": current_request_id(),
        "path": request.get_full_path(),
        **csrf(request),
    }
    if error.status == 429 or error.status >= 500 or error.code == "csrf_failed":
        context["sent"] = sent_form(request)
        context["enctype"] = request.content_type
    try:
        return render_to_string("error.html", context | _reader(request, error))
    except Exception:  # noqa: BLE001 - who reads it may be what has failed
        return render_to_string("error.html", context)


def _reader(request: HttpRequest, error: SiteError) -> dict[str, Any]:
    """Return what pages show of the user, where that asks no database that fails."""
    name = "_cached_user" if error.status == 503 else "user"
    user = getattr(request, name, None)
    if user is None:
        return {}
    # Those who have sent too much are not given further queries.
    perms = {"perms": PermWrapper(user)} if error.status < 429 else {}
    return {"request": request, "user": user, **perms}


def problem(request: HttpRequest, error: SiteError) -> dict[str, Any]:
    """Return the members of the problem document (RFC 9457, section 3.1)."""
    members = {
        "type": error.type,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": request.path,
        "code": error.code,
        "request_id": current_request_id(),
        **error.members,
    }
    if error.errors is not None:
        members["errors"] = error.errors
    return members


def rest_exception_handler(
    exc: Exception, context: dict[str, Any]
) -> HttpResponse | None:
    """Return the response to an exception of a REST view; None if it is unexpected."""
    error = as_site_error(exc)
    if is_unexpected(error):
        return None
    return respond(context["request"], error)


# Handlers named in urls.py, for what Django raises outside the views.


def respond_to_exception(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, as_site_error(exception))


def server_error(request: HttpRequest) -> HttpResponse:
    return respond(request, as_site_error(sys.exception()))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return respond(
        request,
        NotAllowed(
            "The form has expired, or cookies are disabled. Nothing was changed.",
            code="csrf_failed",
        ),
    )


def locked_out(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    from django.conf import settings

    wait = settings.AXES_COOLOFF_TIME
    return respond(request, LockedOut(retry_after_s=int(wait.total_seconds())))
