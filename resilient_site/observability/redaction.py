"""Redaction: no log or report has what is secret by its name or by its form."""

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
MAX_TEXT = 16_384
_NAMES = "passw|secret|token|authorization|cookie|session|csrf|api_?key|dsn|credential"
_TOKEN = "[0-9A-Za-z]{64}"  # noqa: S105 - the form of an API token
_SIGNS = (*_NAMES.replace("api_?key", "key").split("|"), "bearer", "basic", "@")
_is_secret_name = re.compile(_NAMES, re.IGNORECASE).search
_has_token = re.compile(_TOKEN).search
_PATTERNS = (
    (r"(?i)\b(Token|Bearer|Basic)\s+[\w.~+/=-]{8,}", rf"\1 {MASK}"),
    (r"://[^/\s]{0,200}@", f"://{MASK}@"),
    (
        rf"(?i)\b([\w-]{{0,40}}(?:{_NAMES})[\w-]{{0,40}})(=|%3D|['\"]\s*[:=]\s*)(['\"]?)(?:(?<=')[^']+|(?<=\")[^\"]+|[^\s&;,'\"}}]+)",
        rf"\1\2\3{MASK}",
    ),
    (rf"\b{_TOKEN}\b", MASK),
)


def may_hold_secret(text: str) -> bool:
    """Return whether the text has a sign of a secret; cheap, as each line needs it."""
    folded = text.casefold()
    return any(sign in folded for sign in _SIGNS) or _has_token(text) is not None


def shorten(value: Any, limit: int) -> Any:
    """Cut the middle out of a long text: the end of a traceback says most."""
    text = value if isinstance(value, str) else repr(value)
    half = limit // 2
    return value if len(text) <= limit else f"{text[:half]} … {text[-half:]}"


def redact(value: Any) -> Any:
    """Return the value with MASK in place of each secret in it, at any depth."""
    if isinstance(value, Mapping):
        return {
            str(name): MASK if _is_secret_name(str(name)) else redact(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(part) for part in value]
    if value is None or isinstance(value, int | float):
        return value
    text = shorten(value if isinstance(value, str) else repr(value), MAX_TEXT)
    for pattern, replacement in _PATTERNS:
        text = re.sub(pattern, replacement, text)
    return text
