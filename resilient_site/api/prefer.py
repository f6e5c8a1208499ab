"""The request header `Prefer` (RFC 7240): `wait` and `respond-async`."""

import re
from dataclasses import dataclass, replace

# A quote that is not closed extends to the end, so that matching stays linear.
_ELEMENT = re.compile(r'(?:"(?:[^"\\]|\\.?)*(?:"|\Z)|[^",])+', re.DOTALL)
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PREFERENCE = re.compile(
    rf"""\s*+(?P<name>{_NAME})
         (?:\s*+=\s*+(?: (?P<token>{_NAME}) | "(?P<quoted>(?:[^"\\]|\\.)*)" )? )?
         \s*+(?:;.*)?""",  # parameters are ignored
    re.VERBOSE | re.DOTALL,
)
SECONDS_MAX = 2**31  # RFC 9111, section 1.2.2: the most


@dataclass(frozen=True)
class Preference:
    wait_s: int | None = None
    respond_async: bool = False

    def at_most(self, wait_s: int) -> "Preference":
        """Return the preference with a wait of at most `wait_s`."""
        if self.wait_s is None:
            return self
        return replace(self, wait_s=min(self.wait_s, wait_s))

    @property
    def applied(self) -> str:
        """The value of `Preference-Applied` if all of it was applied; may be ""."""
        wait = [] if self.wait_s is None else [f"wait={self.wait_s}"]
        return ", ".join(["respond-async"] * self.respond_async + wait)


def parse_prefer(header: str) -> Preference:
    """Return the preferences in the header; several headers are joined by commas.

    Of a repeated preference the first one counts. Unknown and malformed ones are
    ignored.
    """
    found: dict[str, str] = {}
    for element in _ELEMENT.findall(header):
        if match := _PREFERENCE.fullmatch(element):
            quoted = re.sub(r"\\(.)", r"\1", match["quoted"] or "")
            found.setdefault(match["name"].lower(), match["token"] or quoted)
    return Preference(
        wait_s=_seconds(found.get("wait", "")),
        respond_async=found.get("respond-async") == "",
    )


def _seconds(digits: str) -> int | None:
    if not re.fullmatch("[0-9]+", digits):
        return None
    # Python does not convert thousands of digits.
    return min(int(digits.lstrip("0")[:11] or "0"), SECONDS_MAX)
