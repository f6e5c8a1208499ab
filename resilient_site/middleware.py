"""Middleware that every request passes on its way to a view."""

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.core.exceptions import SuspiciousOperation
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    QueryDict,
)
from django.http.response import HttpResponseBase
from django.template.context_processors import csrf
from django.template.loader import render_to_string
from django.utils.cache import add_never_cache_headers, set_response_etag
from django.utils.functional import SimpleLazyObject
from django_htmx.http import HttpResponseClientRefresh

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.api import conditional
from resilient_site.edge.cache.invalidation import now, receives_all_invalidations
from resilient_site.edge.policy import SAFE_METHODS, policy_of
from resilient_site.edge.request import Identity, content_length, context_of
from resilient_site.errors import (
    Invalid,
    LengthRequired,
    NotFound,
    SiteError,
    TooLarge,
    as_site_error,
    is_unexpected,
    respond,
)
from resilient_site.observability import request_id
from resilient_site.pages import sent_form
from resilient_site.postgres.replicas import choose_replica, leave_replica
from resilient_site.ratelimit.middleware import session_user_id
from resilient_site.resilience.cache_control import OWN

# https://www.w3.org/TR/permissions-policy/
PERMISSIONS = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=()"

type GetResponse = Callable[[HttpRequest], HttpResponse]


def set_request_id(get_response: GetResponse) -> GetResponse:
    """Assign the request id, and return it in a header; the edge does so itself."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if context_of(request):
            return get_response(request)
        current = request_id.set_offered_id(request.headers.get(request_id.HEADER, ""))
        response = get_response(request)
        response[request_id.HEADER] = current
        return response

    return middleware


def isolation(get_response: GetResponse) -> GetResponse:
    """Deny other sites the content of responses, and pages the reader's devices."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        # Of requests without CORS, as for an image or a script.
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if response.get("Content-Type", "").startswith("text/html"):
            response["Permissions-Policy"] = PERMISSIONS
        return response

    return middleware


def pass_identity(get_response: GetResponse) -> GetResponse:
    """Pass the user to the edge, which keeps a private copy of each page.

    A page of a view without a Cache-Control may be shown to its user again, with a
    notice, when the database fails. Runs behind the sessions; looks up no user.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        began = now()
        response = get_response(request)
        context = context_of(request)
        user = _known_user(request)
        session_key = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
        if context and session_key:
            looked_up = getattr(request, "_cached_user", None)
            context.has_dead_session = bool(looked_up and looked_up.is_anonymous)
        if context is None or user is None:
            return response
        expires = getattr(getattr(request, "auth", None), "expiry", None)
        expires_at = expires.timestamp() if expires else math.inf
        if getattr(request, "auth", None):
            session_key = ""
        context.identity = Identity(user.pk, expires_at)
        if session_key:
            verified_tokens().record_session(session_key, user.pk, began)
        if response.status_code == 200 and not response.streaming:
            response.headers.setdefault("Cache-Control", OWN)
        return response

    return middleware


def _known_user(request: HttpRequest) -> Any:
    """Return the user if they are authenticated and were looked up already."""
    user = getattr(request, "user", None)
    if isinstance(user, SimpleLazyObject) and "_cached_user" not in vars(request):
        return None
    return user if user is not None and user.is_authenticated else None


# RFC 9110, section 15.4.5, and Last-Modified, as Django's own middleware has it.
KEPT_IN_304 = (
    "Cache-Control", "Content-Location", "ETag", "Expires", "Last-Modified", "Vary"
)  # fmt: skip


def conditional_reads(get_response: GetResponse) -> GetResponse:
    """Answer a conditional read with 304 or 412; give pages an entity tag.

    In place of Django's ConditionalGetMiddleware, so that If-Match and If-None-Match
    mean the same here, at the edge and on writes.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        is_read = request.method in conditional.SAFE_METHODS
        if not is_read or not 200 <= response.status_code < 300:
            return response
        # The body of an answer to HEAD may be empty.
        if (
            request.method == "GET"
            and "ETag" not in response
            and "no-store" not in response.get("Cache-Control", "")
        ):
            set_response_etag(response)
        if conditional.META_NAMES.isdisjoint(request.META):
            return response
        try:
            is_known = conditional.evaluate(
                str(request.method),
                request.headers,
                etag=response.get("ETag"),
                last_modified=response.get("Last-Modified"),
            )
        except SiteError as error:
            return respond(request, error)
        return _not_modified(response) if is_known else response

    return middleware


def _not_modified(response: HttpResponse) -> HttpResponse:
    kept = {name: response[name] for name in KEPT_IN_304 if name in response}
    answer = HttpResponseNotModified(headers=kept)
    answer.cookies = response.cookies
    return answer


class PrivateSiteMiddleware(LoginRequiredMiddleware):
    """Leads anonymous visitors of a private site to sign-in, from every page.

    Only views with Django's `login_not_required` are open. REST views have their own
    default: `api.authentication.ReadOrWrite`.
    """

    def process_view(
        self, request: Any, view_func: Any, view_args: Any, view_kwargs: Any
    ) -> HttpResponseBase | None:
        if settings.PUBLIC_READ:
            return None
        response = super().process_view(request, view_func, view_args, view_kwargs)
        if response:
            # A fragment cannot hold the page to sign in: the whole page is loaded.
            response = HttpResponseClientRefresh() if request.htmx else response
            add_never_cache_headers(response)
        return response


class ReplicaMiddleware:
    """Has the reads of a request go to a replica of the database, where that is fit.

    Of views that share their responses, or would: what these show may be some seconds
    old anyway. A cookie has a browser that has just written read from the primary,
    as another machine may not know of the change yet. In `settings` with replicas only.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        # Browsers count whole seconds.
        self.written_for_s = math.ceil(settings.DATABASE_REPLICA_MAX_LAG_S) + 1

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            response = self.get_response(request)
        finally:
            leave_replica()
        match = request.resolver_match
        is_write = request.method not in SAFE_METHODS and not (
            match and policy_of(match.func, str(request.method)).batch
        )
        if is_write and response.status_code < 400:
            response.set_cookie(
                settings.WRITTEN_COOKIE_NAME,
                "1",
                max_age=self.written_for_s,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        return response

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        context, stated = context_of(request), policy_of(view, request.method or "")
        is_shared = request.method in SAFE_METHODS and stated.shared is not None
        if context is None or not (is_shared or stated.batch):
            return
        context.as_of, context.is_stale = choose_replica(_may_miss_change(request))


def _may_miss_change(request: HttpRequest) -> bool:
    """Return whether its client may have written what is not known here yet."""
    if settings.WRITTEN_COOKIE_NAME in request.COOKIES:
        return True
    has_credentials = "Authorization" in request.headers or (
        settings.SESSION_COOKIE_NAME in request.COOKIES
    )
    return has_credentials and not receives_all_invalidations()


class ErrorMiddleware:
    """Rejects bodies that are too large, and responds to errors that views raise.

    The policy of a view limits a form, whose files go to the disk; any other body goes
    to memory. Runs before the CSRF check, which would read the whole body.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # No database accepts a null character, and no URL of the site has one.
        if "\0" in request.path:
            return respond(request, NotFound())
        if "%00" in request.META["QUERY_STRING"]:
            errors = {
                name: ["Must not contain a null character."]
                for name, values in request.GET.lists()
                if "\0" in "".join((name, *values))
            }
            detail = "The address has a null character."
            return respond(request, Invalid(detail, errors=errors))
        response = self.get_response(request)
        return _sign_in_and_send_again(request, response) or response

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        name = "MAX_BODY_BYTES"
        if request.content_type == "multipart/form-data":
            name = policy_of(view, request.method or "").form_limit
        limit: int = getattr(settings, name)
        length = content_length((request.META.get("CONTENT_LENGTH") or "0").encode())
        if length > limit:
            return respond(
                request,
                TooLarge(
                    f"The body may have at most {limit:,} bytes. Nothing was changed."
                ),
            )
        # Without a length WSGI defines no body (PEP 3333): it would look empty.
        if "HTTP_TRANSFER_ENCODING" in request.META and not length:
            return respond(request, LengthRequired())
        return None

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponse | None:
        if isinstance(exception, SuspiciousOperation):
            return None  # Django responds, and logs it as a security event
        error = as_site_error(exception)
        if not is_unexpected(error):
            return respond(request, error)
        if not settings.SENTRY_DSN:
            return None
        import sentry_sdk

        user = _known_user(request)
        if key := user.pk if user else session_user_id(request):
            sentry_sdk.set_user({"id": str(key)})
        return None


def _sign_in_and_send_again(
    request: HttpRequest, response: HttpResponse
) -> HttpResponse | None:
    """Return a sign-in page that carries what was sent, for a redirect to sign-in.

    The session has ended while a form was filled. None for any other response.
    """
    if request.method != "POST" or response.status_code != 302:
        return None
    path, query = request.get_full_path(), urlsplit(response["Location"]).query
    if QueryDict(query).get("next") != path or request.user.is_authenticated:
        return None
    sent = sent_form(request)
    if sent is None:
        return None
    context = {"form": AuthenticationForm(request), "next": path, "sent": sent}
    page = render_to_string("account/sign_in.html", context | csrf(request))
    headers = {"Cache-Control": "no-store"}
    return HttpResponse(page, status=401, headers=headers)
