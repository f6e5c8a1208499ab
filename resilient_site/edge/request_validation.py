"""What the head of a request may be: nothing that two servers may read in two ways.

httptools refuses most of it already: two lengths, a length beside a transfer coding,
folded lines, line ends without CR, a space before a colon, bytes that are no text.
"""

import re
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from resilient_site.errors import Invalid, SiteError

type Fields = list[tuple[bytes, bytes]]

MOST_BYTES = 64 * 1024
MOST_FIELDS = 100
ONCE = (b"host", b"transfer-encoding", b"content-length")

_is_host = re.compile(
    rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
).fullmatch
_absolute = re.compile(rb"(?i:https?)://([^/?#]*)").match


class HeadTooLarge(SiteError):
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


class Head(NamedTuple):
    values: dict[bytes, bytes]
    has_body: bool
    # HTTP/1.1, and no name is there twice, nor one that Django would read as another.
    is_plain: bool


def check(method: bytes, target: bytes, version: str, fields: Fields) -> Head:
    """Return what it says. Raises SiteError if it is not in order."""
    size = len(target) + sum(map(len, chain.from_iterable(fields)))
    if len(fields) > MOST_FIELDS or size > MOST_BYTES:
        raise HeadTooLarge
    values = dict(fields)
    if len(values) < len(fields):
        _check_repeated(fields)
    host = values.get(b"host")
    _check_host(version, host)
    if not target.startswith(b"/"):
        _check_target(method, target, host)
    coding = values.get(b"transfer-encoding")
    if coding is not None and (version == "1.0" or coding.lower() != b"chunked"):
        raise Invalid("The only Transfer-Encoding is chunked, in HTTP/1.1.")
    length = values.get(b"content-length", b"")
    has_body = coding is not None or length.strip(b" 0") != b""
    return Head(values, has_body, _is_plain(version, values, fields))


def _is_plain(version: str, values: dict[bytes, bytes], fields: Fields) -> bool:
    has_each_once = len(values) == len(fields)
    return version == "1.1" and has_each_once and b"_" not in b"".join(values)


def _check_repeated(fields: Fields) -> None:
    names = [name for name, _ in fields]
    for name in ONCE:
        if names.count(name) > 1:
            raise Invalid(f"There is more than one {name.decode().title()}.")


@lru_cache(maxsize=128)
def _check_host(version: str, host: bytes | None) -> None:
    if version not in ("1.1", "1.0"):
        raise UnknownVersion
    if host is None:
        if version == "1.1":
            raise Invalid("The Host is missing.")
    elif not _is_host(host):
        raise Invalid("This Host cannot be one.")


def _check_target(method: bytes, target: bytes, host: bytes | None) -> None:
    if target == b"*" and method == b"OPTIONS":
        return
    absolute = _absolute(target)
    if absolute is None or absolute[1].lower() != (host or b"").lower():
        raise Invalid("Ask for a path, at the Host that is named.")
