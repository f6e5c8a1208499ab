"""Redaction: no log or report has what is secret by its name or by its form."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"
# The middle of a longer text is left out.
MAX_TEXT = 16_384
TOKEN_LENGTH = 64
_NAMES = "passw|secret|token|authorization|cookie|session|csrf|api_?key|dsn|credential"
# Almost every text has neither of these signs, nor a run of letters and digits as long
# as an API token: each of them becomes an `a`.
_SIGNS = (*_NAMES.replace("api_?key", "key").split("|"), "bearer", "basic", "@")
_RUN = b"a" * TOKEN_LENGTH
_AS_RUN = bytes(97 if byte < 128 and chr(byte).isalnum() else 32 for byte in range(256))
_PATTERNS = (
    (
        re.compile(r"\b(Token|Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE),
        rf"\1 {MASK}",
    ),
    (re.compile(r"://[^/\s]{0,200}@"), f"://{MASK}@"),
    (
        re.compile(
            rf"\b([\w-]{{0,40}}(?:{_NAMES})[\w-]{{0,40}})(=|%3D|['\"]\s*[:=]\s*)(['\"]?)(?:(?<=')[^']+|(?<=\")[^\"]+|[^\s&;,'\"}}]+)",
            re.IGNORECASE,
        ),
        rf"\1\2\3{MASK}",
    ),
    (re.compile(rf"\b[0-9A-Za-z]{{{TOKEN_LENGTH}}}\b"), MASK),  # an API token
)


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return re.search(_NAMES, name, re.IGNORECASE) is not None


def may_hold_secret(text: str) -> bool:
    """Return whether the text has a sign of a secret; cheap, as each line needs it."""
    folded = text.casefold()
    if any(sign in folded for sign in _SIGNS):
        return True
    return _RUN in text.encode(errors="replace").translate(_AS_RUN)


def redact_text(text: str) -> str:
    """Return the text with MASK in place of each secret."""
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT // 2]} … {text[-MAX_TEXT // 2 :]}"
    if may_hold_secret(text):
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
    return text


def redact(value: Any) -> Any:
    """Return the value with MASK in place of each secret in it, at any depth."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {
            name: MASK if _is_secret_name(str(name)) else redact(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(part) for part in value]
    if value is None or isinstance(value, int | float):
        return value
    return redact_text(repr(value))
