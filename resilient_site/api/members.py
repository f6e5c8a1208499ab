"""Members of an object that a client has sent, each cleaned by its own rule."""

from collections.abc import Callable, Collection, Mapping, Set
from typing import Any

from resilient_site.api.unknown_names import UnknownField, find_unknown
from resilient_site.errors import Invalid


def clean_members(
    raw: Any,
    cleaners: Mapping[str, Callable[[Any], Any]],
    *,
    what: str,
    required: Collection[str] = (),
    known: Set[str] | None = None,
) -> dict[str, Any]:
    """Return the members of an object that have a cleaner, cleaned.

    A cleaner raises ValueError, or Invalid with errors of its own. Raises Invalid with
    all that is wrong, also with required members that are missing; and UnknownField if
    there are others than `known`, if that is given.
    """
    if not isinstance(raw, Mapping):
        raise Invalid(errors={"non_field_errors": [f"{what} must be a JSON object."]})
    data: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for name, cleaner in cleaners.items():
        if name in raw:
            try:
                data[name] = cleaner(raw[name])
            except ValueError as error:
                errors[name] = [str(error)]
            except Invalid as error:
                errors |= error.errors or {}
        elif name in required:
            errors[name] = ["This field is required."]
    if known is not None and not raw.keys() <= known:
        raise UnknownField(errors=find_unknown(raw, known) | errors)
    if errors:
        raise Invalid(errors=errors)
    return data
