"""The operator token and the first API key: made at the first start, kept under a private home with mode 600."""

import os
import secrets
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from configs.settings import Settings
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database

FIRST_KEY = "first.key"


def make_home(home: Path) -> None:
    """Make home, or mend it, so that only its owner gets in: it keeps logged texts, labels and keys.

    Another user's folder, or one that users share like /tmp, is left as it is.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = home.stat()
    if found.st_uid == os.getuid() and not found.st_mode & stat.S_ISVTX:
        home.chmod(0o700)


def open_private(log: Path) -> BinaryIO:
    """Return an empty file that only its owner can read, from its first byte on."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(descriptor, 0o600)  # one that an earlier start left
    return os.fdopen(descriptor, "wb")


def ensure_operator_token(settings: Settings) -> None:
    """Make the operator token at the first start, unless the environment gives one."""
    if settings.operator_token is None and not settings.token_file.exists():
        write_secret(settings.token_file, secrets.token_urlsafe(32))


def ensure_first_key(settings: Settings) -> str | None:
    """Return the secret of a key made just now, or None when the first key was made before.

    A revoked first key is not replaced: whoever revoked it meant it.
    """
    file = settings.root / FIRST_KEY
    keys = ApiKeys(open_database(settings.database))
    if any(key.name == "first" for key in keys.list()):
        return None
    _, secret = keys.create("first", None, datetime.now(UTC))
    write_secret(file, secret)
    return secret


def read_first_key(settings: Settings) -> str | None:
    """Return the secret of the first key while it is valid, else None."""
    try:
        secret = (settings.root / FIRST_KEY).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    valid = ApiKeys(open_database(settings.database)).find(secret, datetime.now(UTC))
    return secret if valid else None


def write_secret(file: Path, secret: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    partial = file.with_name(f".{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(secret + "\n")
    partial.replace(file)
