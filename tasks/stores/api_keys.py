"""Who may call the prediction API. A key's secret is shown once; only its SHA-256 is kept."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, insert, select, update

from tasks.stores.database import api_keys, reading, writing


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret; `loops` None means every loop."""

    key_id: str
    name: str
    loops: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None = None

    def may_use(self, loop: str) -> bool:
        """Say whether this key may call a loop."""
        return self.loops is None or loop in self.loops


class ApiKeys:
    """The keys in a database of `open_database`. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, name: str, loops: Sequence[str] | None, now: datetime) -> tuple[ApiKey, str]:
        """Return a new key and its secret, which nobody can read again."""
        secret = f"evt_{secrets.token_urlsafe(32)}"
        key = ApiKey(f"key_{secrets.token_hex(6)}", name, None if loops is None else tuple(loops), now)
        values = {"key_id": key.key_id, "name": name, "created_at": now, "revoked_at": None}
        values |= {"loops": None if loops is None else list(loops), "secret_sha256": _digest(secret)}
        with writing(self._engine) as connection:
            connection.execute(insert(api_keys), [values])
        return key, secret

    def find(self, secret: str, now: datetime) -> ApiKey | None:
        """Return the key that a secret belongs to, or None when there is none or it was revoked by now."""
        with reading(self._engine) as connection:
            query = select(api_keys).where(api_keys.c.secret_sha256 == _digest(secret))
            row = connection.execute(query).mappings().one_or_none()
        key = None if row is None else _key(dict(row))
        return None if key is None or (key.revoked_at is not None and key.revoked_at <= now) else key

    def list(self) -> list[ApiKey]:
        """Return every key, revoked ones too, oldest first."""
        with reading(self._engine) as connection:
            query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
            return [_key(dict(row)) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str, now: datetime) -> bool:
        """End a key; False when there is no such key or it had ended before."""
        live = (api_keys.c.key_id == key_id) & api_keys.c.revoked_at.is_(None)
        with writing(self._engine) as connection:
            return connection.execute(update(api_keys).where(live).values(revoked_at=now)).rowcount == 1


def _digest(secret: str) -> str:
    # 256 random bits cannot be guessed, so a slow password hash would only cost time.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: dict[str, Any]) -> ApiKey:
    loops = row["loops"]
    return ApiKey(
        row["key_id"], row["name"], None if loops is None else tuple(loops), row["created_at"], row["revoked_at"]
    )
