"""The signing key of a site without SECRET_KEY."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def load_secret_key(data_dir: Path, embedded: bool) -> str:
    """Return the key in `data_dir`, created on first use; embedded default only."""
    if not embedded:
        raise ImproperlyConfigured(
            "SECRET_KEY must be set when DATABASE_URL is: a long random text."
        )
    path = data_dir / "secret_key"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
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
