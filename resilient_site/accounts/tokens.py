"""Whose a token is: looked up once, and known for a few seconds from then on.

What is changed about the person, his token or his groups is seen at once on this
machine, and by others when they hear of it, or at the latest after `KNOWN_S`.
"""

import time

from django.db.models import Model
from django.db.models.base import ModelState

from resilient_site.edge.cache.invalidation import Mark, generations, mark, now
from resilient_site.models import ApiToken
from resilient_site.resilience.bounded_dict import Latest
from resilient_site.resilience.cache_control import GROUPS, user_tag

KNOWN_S = 10.0
KNOWN_MAX = 10_000

_known = Latest[str, tuple[ApiToken, Mark, float]](KNOWN_MAX, "Tokens known")


def find(digest: str) -> ApiToken | None:
    """Return the token of this digest with its user, if there is one."""
    token = _recall(digest)
    if token is None:
        began = now()
        users = ApiToken.objects.select_related("user")
        token = users.filter(digest=digest).first()
        if token is None:
            return None
        # So that they are known as well.
        token.user.get_all_permissions()
        _remember(token, began)
    # What a view does to the user is for its request alone.
    found = _copy(token)
    found._state.fields_cache["user"] = _copy(token.user)
    return found


def _copy[M: Model](row: M) -> M:
    """Return another with the same values; `copy` takes four times as long."""
    state = ModelState()
    state.db, state.adding = row._state.db, row._state.adding
    other = type(row).__new__(type(row))
    vars(other).update(vars(row), _state=state)
    return other


def _recall(digest: str) -> ApiToken | None:
    token, at, until = _known.get(digest, (None, None, 0.0))
    if at is None or time.monotonic() >= until or not generations.is_current(at):
        return None
    return token


def _remember(token: ApiToken, began: int) -> None:
    at = mark(began, [user_tag(token.user_id), GROUPS])
    _known[token.digest] = token, at, time.monotonic() + KNOWN_S
