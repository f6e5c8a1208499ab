"""The signing key: that of SECRET_KEY, or one made for the embedded default."""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

MIN_CHARACTERS, MIN_DIFFERENT = 32, 8
# Of examples, in this project and in others.
_is_placeholder = re.compile(
    "change.?(me|this|it)|insecure|example|placeholder|replace.?(me|this)|default.?key"
    "|(long|random).{0,8}(text|string)|(your|my|the).?secret|secret.?key",
    re.I,
).search


def check_secret_key(key: str) -> str:
    """Return the key; raise ImproperlyConfigured if it can be guessed."""
    if (
        len(key) < MIN_CHARACTERS
        or len(set(key)) < MIN_DIFFERENT
        or _is_placeholder(key)
    ):
        raise ImproperlyConfigured(
            f"SECRET_KEY can be guessed: set a random text of {MIN_CHARACTERS} or more "
            "characters, such as the output of: openssl rand -base64 48"
        )
    return key


def load_secret_key(data_dir: Path, embedded: bool) -> str:
    """Return the key in `data_dir`, created on first use; embedded default only."""
    if not embedded:
        raise ImproperlyConfigured(
            "SECRET_KEY must be set when DATABASE_URL is: a long random text."
        )
    path = data_dir / "secret_key"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # Written to a draft and linked: complete, and created by one process only.
            draft = path.with_name(f".secret_key.{os.getpid()}")
            with open(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(50))
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        return path.read_text()
    except OSError as error:
        raise ImproperlyConfigured(f"DATA_DIR cannot be used: {error}") from error
