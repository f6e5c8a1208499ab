"""Register of the credentials that were found valid: API tokens and session keys.

Authentication takes a token from it instead of the database for `FRESH_S`. The edge
serves shared responses to tokens that are valid, and admits recognized clients before
anonymous ones. The rate limiter counts a recognized token for its user.

A change of the user, the token or any group ends validity at once on this machine,
elsewhere when the invalidation arrives, at the latest after `FRESH_S`. Recognition
outlasts it: it is a rank in a queue, and no right, for up to `RECOGNIZED_S`.
"""

import math
import time
from copy import copy
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.http import HttpRequest
from knox.crypto import hash_token

from resilient_site.edge.cache.invalidation import (
    Mark,
    invalidate_now,
    invalidations,
    mark,
    now,
)
from resilient_site.resilience.bounded_dict import BoundedDict
from resilient_site.resilience.cache_control import inactive_tag, personal_tags

# The edge imports this before the apps are loaded, and with them the models.
if TYPE_CHECKING:
    from resilient_site.models import ApiToken

FRESH_S = 10.0
RECOGNIZED_S = 3600.0
MAX_ENTRIES = 20_000
# Two names of one scheme in `Authorization`.
SCHEMES = (b"token", b"bearer")


@dataclass(frozen=True, slots=True)
class Verified:
    user_id: object
    mark: Mark
    verified_at: float  # monotonic clock
    expires_at: float  # wall clock
    token: "ApiToken | None" = None  # with its user and their permissions
    session_key: str = ""


class VerifiedTokens:
    def __init__(self) -> None:
        self._entries = BoundedDict[str, Verified](MAX_ENTRIES)

    def __len__(self) -> int:
        return len(self._entries)

    def verify_token(self, token: bytes) -> "ApiToken | None":
        """Return the token with its user if it is valid: a copy for the caller."""
        digest = token_digest(token)
        entry = self._entries.get(digest)
        if entry and entry.token and _is_valid(entry):
            return _copy_with_user(entry.token)
        from resilient_site.models import ApiToken

        began = now()
        tokens = ApiToken.objects.select_related("user")
        found = tokens.filter(digest=digest).first()
        expires_at = found.expiry.timestamp() if found and found.expiry else math.inf
        if found is None or not found.user.is_active or expires_at <= time.time():
            self._entries.pop(digest, None)
            if found and not found.user.is_active:
                # Nothing may have said so (`QuerySet.update`): it ends all they have.
                invalidate_now(inactive_tag(found.user_id))
            return None
        found.user.get_all_permissions()  # so that they are in the entry as well
        self._record(digest, found.user_id, began, expires_at, found)
        return _copy_with_user(found)

    def record_session(self, session_key: str, user_id: object, began: int) -> None:
        """Record that at the moment `began` this was the session of that user."""
        digest = session_digest(session_key)
        self._record(digest, user_id, began, math.inf, session_key=session_key)

    def forget_session(self, session_key: str) -> None:
        self._entries.pop(session_digest(session_key), None)

    def people_and_sessions(self) -> tuple[set[Any], list[str]]:
        """Return the users of all entries, and the keys of the sessions among them."""
        entries = list(self._entries.values())
        keys = [entry.session_key for entry in entries if entry.session_key]
        return {entry.user_id for entry in entries}, keys

    def verify(self, authorization: bytes, session_key: str) -> bool:
        """Return whether the token or the session is valid; asks the database."""
        token = parse_token(authorization)
        if token is not None and self.verify_token(token):
            return True
        if not session_key:
            return False
        from django.contrib.auth import get_user
        from django.contrib.sessions.backends.base import SessionBase

        began, request = now(), HttpRequest()
        engine = import_module(settings.SESSION_ENGINE)
        session: SessionBase = engine.SessionStore(session_key)
        request.session = session
        user = get_user(request)
        if user.is_authenticated:
            self.record_session(session_key, user.pk, began)
        return user.is_authenticated

    def is_valid(self, credential: str) -> bool:
        """Return whether it was valid within `FRESH_S`, and nothing changed since."""
        entry = self._entries.get(credential)
        return entry is not None and _is_valid(entry)

    def is_recognized(self, credential: str) -> bool:
        """Return whether it was valid when it was last verified, not long ago."""
        return self.recognized_user_id(credential) is not None

    def recognized_user_id(self, credential: str) -> object:
        """Return the user of a recognized credential; None if it is not recognized."""
        entry = self._entries.get(credential)
        return entry.user_id if entry and _is_younger(entry, RECOGNIZED_S) else None

    def _record(
        self,
        credential: str,
        user_id: object,
        began: int,
        expires_at: float,
        token: "ApiToken | None" = None,
        session_key: str = "",
    ) -> None:
        self._entries[credential] = Verified(
            user_id,
            mark(began, personal_tags(user_id, [credential])),
            time.monotonic(),
            expires_at,
            token,
            session_key,
        )


@cache
def verified_tokens() -> VerifiedTokens:
    """Return the register of this process."""
    return VerifiedTokens()


def parse_token(authorization: bytes) -> bytes | None:
    """Return the token in an Authorization header; None if it has none."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() in SCHEMES else None


def token_digest(token: bytes) -> str:
    """Return what the database knows the token by."""
    # What is not ASCII is no token, and nor is its replacement.
    return cast(str, hash_token(token.decode("ascii", "replace")))


def credentials(authorization: bytes, session_key: str) -> tuple[str, ...]:
    """Return digests of the token and the session key of a request."""
    token = parse_token(authorization)
    found = [] if token is None else [token_digest(token)]
    return (*found, session_digest(session_key)) if session_key else tuple(found)


def session_digest(session_key: str) -> str:
    return "session:" + sha256(session_key.encode()).hexdigest()


def _is_valid(entry: Verified) -> bool:
    return _is_younger(entry, FRESH_S) and invalidations.is_current(entry.mark)


def _is_younger(entry: Verified, seconds: float) -> bool:
    is_young = time.monotonic() - entry.verified_at < seconds
    return is_young and time.time() < entry.expires_at


def _copy_with_user(token: "ApiToken") -> "ApiToken":
    """Return a copy, as what a view does to the user is for its request alone."""
    copied = copy(token)
    copied.user = copy(token.user)
    return copied
