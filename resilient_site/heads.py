"""What the head of a request may be: nothing that two servers may read in two ways.

httptools refuses most of it already: two lengths, a length beside a transfer coding,
folded lines, line ends without CR, a space before a colon, bytes that are no text.
"""

import re
from dataclasses import dataclass

from resilient_site.errors import Invalid, SiteError

type Fields = list[tuple[bytes, bytes]]

MOST_BYTES = 64 * 1024
MOST_FIELDS = 100

_is_host = re.compile(
    rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
).fullmatch
_absolute = re.compile(rb"(?i:https?)://([^/?#]*)").match


class TooLarge(SiteError):
    status = 431
    code = "head_too_large"
    detail = (
        f"The request line and the headers may have {MOST_BYTES:,} bytes in all, "
        f"in {MOST_FIELDS} fields."
    )


class UnknownVersion(SiteError):
    status = 505
    code = "http_version"
    detail = "Ask in HTTP/1.1."


@dataclass(slots=True)
class Head:
    method: bytes
    target: bytes
    version: str


def check(head: Head, fields: Fields) -> bool:
    """Raise SiteError if it is not in order; tell whether a body follows."""
    size = len(head.target) + sum(len(name) + len(value) for name, value in fields)
    if len(fields) > MOST_FIELDS or size > MOST_BYTES:
        raise TooLarge
    host = _only(b"host", fields)
    _check_host(head, host)
    _check_target(head, host)
    coding = _only(b"transfer-encoding", fields)
    if coding is not None and (head.version == "1.0" or coding.lower() != b"chunked"):
        raise Invalid("The only Transfer-Encoding is chunked, in HTTP/1.1.")
    if any(b"_" in name for name, _ in fields):
        # For WSGI it would be the same as the one with a hyphen.
        fields[:] = [field for field in fields if b"_" not in field[0]]
    length = _only(b"content-length", fields) or b""
    return coding is not None or length.strip(b" 0") != b""


def _only(name: bytes, fields: Fields) -> bytes | None:
    values = [value for known, value in fields if known == name]
    if len(values) > 1:
        raise Invalid(f"There is more than one {name.decode().title()}.")
    return values[0] if values else None


def _check_host(head: Head, host: bytes | None) -> None:
    if head.version not in ("1.1", "1.0"):
        raise UnknownVersion
    if host is None:
        if head.version == "1.1":
            raise Invalid("The Host is missing.")
    elif not _is_host(host):
        raise Invalid("This Host cannot be one.")


def _check_target(head: Head, host: bytes | None) -> None:
    if head.target.startswith(b"/"):
        return
    if head.target == b"*" and head.method == b"OPTIONS":
        return
    absolute = _absolute(head.target)
    if absolute is None or absolute[1].lower() != (host or b"").lower():
        raise Invalid("Ask for a path, at the Host that is named.")
