"""What the HTML pages of every app share.

The typed request, who may do what, and the form that was sent in vain: the page that
says so shows it again, filled.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, Self

from django.conf import settings
from django.contrib.auth.decorators import login_required, permission_required
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.http import HttpRequest, QueryDict
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_http_methods
from django_htmx.middleware import HtmxDetails

form_methods = require_http_methods(["GET", "HEAD", "POST"])


class HtmxRequest(HttpRequest):
    """A request as the middleware of django-htmx leaves it."""

    htmx: HtmxDetails


def require_permissions[V: Callable[..., HttpResponseBase]](
    *permissions: str,
) -> Callable[[V], V]:
    """Ask anonymous visitors to sign in; answer 403 to users without `permissions`.

    A request of htmx is answered 401, which leaves the page with what was typed alone.
    """

    def decorate(view: V) -> V:
        protected = login_required(
            permission_required(permissions, raise_exception=True)(view)
        )

        @wraps(view)
        def wrapper(
            request: HtmxRequest, *args: Any, **options: Any
        ) -> HttpResponseBase:
            if request.htmx and not request.user.is_authenticated:
                from resilient_site.errors import NotSignedIn  # which imports this

                raise NotSignedIn("To do this, sign in again, in another window.")
            return protected(request, *args, **options)

        return wrapper  # type: ignore[return-value]

    return decorate


FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
# What a person does not see in a form, beside names that begin as PREFIXES or end as
# SUFFIXES say.
HIDDEN = {
    "version", "idempotency-key", "next", "pair", "keep", "action", "post",
    "attributes-of", "add", "remove", "change",
}  # fmt: skip
# Those that the sign-in form carries along, and the admin's own.
CARRIED = "carried-"
PREFIXES = (CARRIED, "_")
# Those of rows: how many there are, and what each was before.
SUFFIXES = ("_FORMS", "-was")
LONG = 60


class SentField(NamedTuple):
    """A field of a form that was sent, to be shown again."""

    name: str
    value: str
    kind: str

    @classmethod
    def of(cls, name: str, value: str) -> Self:
        if "passw" in name.lower():
            return cls(name, "", "password")
        if name in HIDDEN or name.startswith(PREFIXES) or name.endswith(SUFFIXES):
            return cls(name, value, "hidden")
        is_long = "\n" in value or len(value) > LONG
        return cls(name, value, "long" if is_long else "text")

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").replace("-", " ").capitalize()

    @property
    def carried_name(self) -> str:
        return CARRIED + self.name


def sent_form(request: HttpRequest) -> list[SentField] | None:
    """Return what a form of this site has sent, without secrets; None if none has.

    What another site sends is not shown: the press of a button on a page of this site
    would make it a request of the person's own.
    """
    if request.method != "POST" or request.content_type not in FORM_TYPES:
        return None
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
        # A large file that nothing has read yet is not read for this.
        if length > settings.DATA_UPLOAD_MAX_MEMORY_SIZE and not hasattr(
            request, "_post"
        ):
            return None
        own = f"{request.scheme}://{request.get_host()}"
        if request.headers.get("Origin") not in (own, *settings.CSRF_TRUSTED_ORIGINS):
            return None
        sent, files = request.POST, request.FILES
    except (
        SuspiciousOperation, BadRequest, MultiPartParserError, OSError, ValueError,
    ):  # fmt: skip
        return None
    fields = _fields(sent, "", {"csrfmiddlewaretoken"})
    return fields + [SentField(name, "", "file") for name in files]


def carried_form(request: HttpRequest) -> list[SentField] | None:
    """Return what the sign-in form has carried along; None if it did not."""
    names = [name for name in request.POST if name.startswith(CARRIED)]
    return _fields(request.POST, CARRIED, {CARRIED}) if names else None


def _fields(sent: QueryDict, prefix: str, left_out: set[str]) -> list[SentField]:
    return [
        SentField.of(name.removeprefix(prefix), value)
        for name, values in sent.lists()
        if name.startswith(prefix) and name not in left_out
        for value in values
    ]
