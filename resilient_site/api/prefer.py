"""The header `Prefer` (RFC 7240), as far as something here goes by it."""

import re
from dataclasses import dataclass, replace

# A quote that is not closed reaches to the end: no text makes this go over it twice.
_ELEMENT = re.compile(r'(?:"(?:[^"\\]|\\.?)*(?:"|\Z)|[^",])+', re.DOTALL)
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PREFERENCE = re.compile(
    rf"""\s*+(?P<name>{_NAME})
         (?:\s*+=\s*+(?: (?P<token>{_NAME}) | "(?P<quoted>(?:[^"\\]|\\.)*)" )? )?
         \s*+(?:;.*)?""",  # no preference of ours has parameters
    re.VERBOSE | re.DOTALL,
)
SECONDS_MAX = 2**31  # RFC 9111, 1.2.2: what is more means this


@dataclass(frozen=True)
class Preference:
    wait_s: int | None = None
    respond_async: bool = False

    def at_most(self, wait_s: int) -> "Preference":
        """Return it with no longer a wait than `wait_s`."""
        if self.wait_s is None:
            return self
        return replace(self, wait_s=min(self.wait_s, wait_s))

    @property
    def applied(self) -> str:
        """The value of `Preference-Applied` if all of this was gone by; maybe ""."""
        wait = [] if self.wait_s is None else [f"wait={self.wait_s}"]
        return ", ".join(["respond-async"] * self.respond_async + wait)


def parse_prefer(header: str) -> Preference:
    """Read `Prefer`: several headers are one, joined by commas.

    Of a preference that is there twice the first one counts. What is unknown or not
    well-formed is ignored.
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
    # Python refuses to count thousands of digits.
    return min(int(digits.lstrip("0")[:11] or "0"), SECONDS_MAX)
