"""Names that a request has and the site does not know: members and parameters.

They are rejected rather than ignored, as most are misspelled and would change what the
request means. `Prefer: handling=lenient` (RFC 7240, section 4.4) has them ignored.
"""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from resilient_site.errors import Invalid

# What a response names of a request that is full of them.
NAMES_MAX = 20
LENGTH_MAX = 100
# Stands in a known name for any other.
PLACEHOLDER = "NAME"


class UnknownField(Invalid):
    code = "unknown_field"
    detail = "The body has a member that this address does not know."


class UnknownParameter(Invalid):
    code = "unknown_parameter"
    detail = "The query has a parameter that this address does not know."


def prefixes_of(known: Iterable[str]) -> tuple[str, ...]:
    """Return what any name may follow: `attributes.` of `attributes.NAME`."""
    return tuple(
        name.removesuffix(PLACEHOLDER) for name in known if name.endswith(PLACEHOLDER)
    )


def names_beyond(given: Iterable[str], known: Collection[str]) -> list[str]:
    prefixes = prefixes_of(known)
    return [n for n in given if n not in known and not n.startswith(prefixes)]


def find_unknown(given: Iterable[str], known: Collection[str]) -> dict[str, list[str]]:
    """Return a message by unknown name, with the known name that is closest."""
    unknown = names_beyond(given, known)
    return {
        name[:LENGTH_MAX]: [_message(name[:LENGTH_MAX], known)]
        for name in unknown[:NAMES_MAX]
    }


def _message(name: str, known: Collection[str]) -> str:
    if close := get_close_matches(name, known, 1):
        return f"This name is not known. Did you mean “{close[0]}”?"
    if not known:
        return "This name is not known: none is expected here."
    return f"This name is not known. Known are {', '.join(sorted(known))}."
