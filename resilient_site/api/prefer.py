"""The request header `Prefer` (RFC 7240): `wait`, `respond-async`, `handling`."""

from dataclasses import dataclass
from urllib.request import parse_http_list


@dataclass(frozen=True)
class Preference:
    wait_s: int | None = None
    respond_async: bool = False
    is_lenient: bool = False

    @property
    def applied(self) -> str:
        """The value of `Preference-Applied` if all of it was applied; may be ""."""
        wait = [] if self.wait_s is None else [f"wait={self.wait_s}"]
        return ", ".join(["respond-async"] * self.respond_async + wait)


def parse_prefer(header: str, wait_max_s: int = 0) -> Preference:
    """Return the preferences in the header, which are ignored where malformed."""
    found: dict[str, str] = {}
    for element in parse_http_list(header):
        name, _, value = element.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    is_number = wait.isascii() and wait.isdigit()
    return Preference(
        # A float takes any number of digits.
        int(min(float(wait), wait_max_s)) if is_number else None,
        respond_async=found.get("respond-async") == "",
        is_lenient=found.get("handling", "").lower() == "lenient",
    )
