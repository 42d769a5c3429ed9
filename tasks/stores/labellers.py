"""Who may label without being the operator. A pass is shown once; only its SHA-256 is kept."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from tasks.core.errors import DataError
from tasks.stores.database import reading, writing
from tasks.stores.schema import labellers


@dataclass(frozen=True)
class Labeller:
    """A person who labels; `loops` None means every loop."""

    labeller_id: str
    name: str
    loops: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None = None


class Labellers:
    """The people in a database of `open_database`. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def invite(self, name: str, loops: Sequence[str] | None, now: datetime) -> tuple[Labeller, str]:
        """Return a new labeller and the pass to sign in with, which nobody can read again.

        Raises DataError for a name that is or was in use: labels are told apart by it.
        """
        secret = f"lab_{secrets.token_urlsafe(24)}"
        person = Labeller(f"lab_{secrets.token_hex(6)}", name, None if loops is None else tuple(loops), now)
        values = {"labeller_id": person.labeller_id, "name": name, "created_at": now, "revoked_at": None}
        values |= {"loops": None if loops is None else list(loops), "pass_sha256": _digest(secret)}
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(labellers), [values])
        except IntegrityError as error:
            raise DataError(f"labellers: the name '{name}' is or was in use; choose another") from error
        return person, secret

    def find(self, secret: str) -> Labeller | None:
        """Return whom a pass belongs to, or None when there is nobody or the pass was ended."""
        return self._one(labellers.c.pass_sha256 == _digest(secret))

    def get(self, labeller_id: str) -> Labeller | None:
        """Return a labeller whose pass is still good, or None."""
        return self._one(labellers.c.labeller_id == labeller_id)

    def list(self) -> list[Labeller]:
        """Return everybody, those whose pass was ended too, oldest first."""
        query = select(labellers).order_by(labellers.c.created_at, labellers.c.labeller_id)
        with reading(self._engine) as connection:
            return [_labeller(dict(row)) for row in connection.execute(query).mappings()]

    def revoke(self, labeller_id: str, now: datetime) -> bool:
        """End a pass; the labels stay. False when there is none or it had ended before."""
        live = (labellers.c.labeller_id == labeller_id) & labellers.c.revoked_at.is_(None)
        with writing(self._engine) as connection:
            return connection.execute(update(labellers).where(live).values(revoked_at=now)).rowcount == 1

    def _one(self, criterion: Any) -> Labeller | None:
        query = select(labellers).where(criterion, labellers.c.revoked_at.is_(None))
        with reading(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _labeller(dict(row))


def _digest(secret: str) -> str:
    # 192 random bits cannot be guessed, so a slow password hash would only cost time.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _labeller(row: dict[str, Any]) -> Labeller:
    loops = row["loops"]
    return Labeller(
        row["labeller_id"], row["name"], None if loops is None else tuple(loops), row["created_at"], row["revoked_at"]
    )
