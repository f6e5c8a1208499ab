"""Redaction: no log or report has what is secret by its name or by its form."""

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# The middle of a longer text is left out.
MAX_TEXT = 16_384
TOKEN_LENGTH = 64
_NAMES = "passw|secret|token|authorization|cookie|session|csrf|api_?key|dsn|credential"
# Almost every text has none of these, nor an API token.
_SIGNS = (*_NAMES.replace("api_?key", "key").split("|"), "bearer", "basic", "@")
_TOKEN = f"[0-9A-Za-z]{{{TOKEN_LENGTH}}}"
_is_secret_name = re.compile(_NAMES, re.IGNORECASE).search
_has_token = re.compile(_TOKEN).search
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
    (re.compile(rf"\b{_TOKEN}\b"), MASK),
)


def may_hold_secret(text: str) -> bool:
    """Return whether the text has a sign of a secret; cheap, as each line needs it."""
    folded = text.casefold()
    return any(sign in folded for sign in _SIGNS) or _has_token(text) is not None


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
            str(name): MASK if _is_secret_name(str(name)) else redact(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(part) for part in value]
    if value is None or isinstance(value, int | float):
        return value
    return redact_text(repr(value))
