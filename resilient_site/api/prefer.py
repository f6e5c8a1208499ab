"""The request header `Prefer` (RFC 7240): `wait` and `respond-async`."""

from dataclasses import dataclass, replace
from urllib.request import parse_http_list

from resilient_site.api.pagination import parse_small_number


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
    ignored, and parameters are.
    """
    found: dict[str, str] = {}
    for element in parse_http_list(header):
        name, _, value = element.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return Preference(
        wait_s=parse_small_number(found.get("wait", "")),
        respond_async=found.get("respond-async") == "",
    )
