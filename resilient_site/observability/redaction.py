"""What is secret does not get into logs and reports: told by its name or its form."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"
# Of a longer text the middle is left out.
TEXT_MAX = 16_384
TOKEN_LENGTH = 64
_NAMES = "passw|secret|token|authorization|cookie|session|csrf|api_?key|dsn|credential"
# Looked for first, as nearly every text has none of them: a sign, or what is as long
# as a token of ours, of which each letter and figure becomes an `a`.
_LIKE_TOKEN = b"a" * TOKEN_LENGTH
_AS_TOKEN = bytes(
    97 if byte < 128 and chr(byte).isalnum() else 32 for byte in range(256)
)
_SIGNS = (
    "passw", "secret", "token", "authorization", "cookie", "session", "csrf", "key",
    "dsn", "credential", "bearer", "basic", "@",
)  # fmt: skip
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
    # A token of ours, wherever it stands.
    (re.compile(r"\b[0-9A-Za-z]{64}\b"), MASK),
)  # fmt: skip


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return re.search(_NAMES, name, re.IGNORECASE) is not None


def may_hold_secret(text: str) -> bool:
    """Tell at once that most texts have nothing in them that would be masked."""
    folded = text.casefold()
    for sign in _SIGNS:  # noqa: SIM110 - a loop, as this is done for each request
        if sign in folded:
            return True
    if len(text) < TOKEN_LENGTH:
        return False
    return _LIKE_TOKEN in text.encode(errors="replace").translate(_AS_TOKEN)


def mask_text(text: str) -> str:
    if len(text) > TEXT_MAX:
        text = f"{text[: TEXT_MAX // 2]} … {text[-TEXT_MAX // 2 :]}"
    if may_hold_secret(text):
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
    return text


def mask(value: Any) -> Any:
    """Return the value without secrets: texts, and what holds texts by name."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {
            name: MASK if _is_secret_name(str(name)) else mask(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask(part) for part in value]
    return value
