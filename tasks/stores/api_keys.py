"""Who may call the prediction API, by which plan and how long. A secret is shown once; only its SHA-256 is kept."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, update

from tasks.core.billing import Term
from tasks.stores.database import reading, writing
from tasks.stores.schema import api_keys, former_secrets, key_terms

KeyState = Literal["valid", "expired", "revoked"]


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret; `loops` None means every loop, `plan` None no limits and no statement."""

    key_id: str
    name: str
    loops: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None = None
    plan: str | None = None
    expires_at: datetime | None = None

    def may_use(self, loop: str) -> bool:
        """Say whether this key may call a loop."""
        return self.loops is None or loop in self.loops

    def state(self, now: datetime) -> KeyState:
        """Say whether the key opens anything at a time."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


class ApiKeys:
    """The keys in a database of `open_database`. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        name: str,
        loops: Sequence[str] | None,
        now: datetime,
        *,
        plan: str | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Return a new key and its secret, which nobody can read again."""
        secret = _new_secret()
        allowed = None if loops is None else tuple(loops)
        key = ApiKey(f"key_{secrets.token_hex(6)}", name, allowed, now, None, plan, expires_at)
        values = {"key_id": key.key_id, "name": name, "created_at": now, "revoked_at": None}
        values |= {"loops": None if loops is None else list(loops), "secret_sha256": _digest(secret)}
        with writing(self._engine) as connection:
            connection.execute(insert(api_keys), [values])
            if plan is not None or expires_at is not None:
                _add_terms(connection, key.key_id, now, plan, expires_at)
        return key, secret

    def find(self, secret: str, now: datetime) -> ApiKey | None:
        """Return the key that a secret opens now, or None when there is none, or it was revoked or has expired.

        The secret before a rotation opens its key until its time of grace is over.
        """
        digest = _digest(secret)
        with reading(self._engine) as connection:
            key = _find(connection, api_keys.c.secret_sha256 == digest)
            if key is None:
                replaced = (former_secrets.c.secret_sha256 == digest) & (former_secrets.c.good_until > now)
                owner = connection.execute(select(former_secrets.c.key_id).where(replaced)).scalar_one_or_none()
                key = None if owner is None else _find(connection, api_keys.c.key_id == owner)
        return key if key is not None and key.state(now) == "valid" else None

    def get(self, key_id: str) -> ApiKey | None:
        """Return a key, revoked or not, or None when there is none of this id."""
        with reading(self._engine) as connection:
            return _find(connection, api_keys.c.key_id == key_id)

    def list(self) -> list[ApiKey]:
        """Return every key, revoked ones too, oldest first."""
        newest = select(func.max(key_terms.c.id)).group_by(key_terms.c.key_id)
        with reading(self._engine) as connection:
            query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
            keys = connection.execute(query).mappings().all()
            rows = connection.execute(select(key_terms).where(key_terms.c.id.in_(newest))).mappings()
            terms = {row["key_id"]: dict(row) for row in rows}
        return [_key(dict(row), terms.get(row["key_id"])) for row in keys]

    def terms(self, key_id: str | None = None) -> Mapping[str, Sequence[Term]]:
        """Return what each key was sold by, from when on, oldest first; a key that never had terms is not there.

        `key_id`: only this key's.
        """
        query = select(key_terms).order_by(key_terms.c.id)
        query = query if key_id is None else query.where(key_terms.c.key_id == key_id)
        found: dict[str, list[Term]] = {}
        with reading(self._engine) as connection:
            for row in connection.execute(query).mappings():
                found.setdefault(row["key_id"], []).append(Term(row["at"], row["plan"], row["expires_at"]))
        return found

    def change(self, key_id: str, now: datetime, *, plan: str | None, expires_at: datetime | None) -> bool:
        """Give a key another plan and end from now on; False when there is no such key or it was revoked."""
        with writing(self._engine) as connection:
            live = select(api_keys.c.key_id).where(_is_live(key_id))
            if connection.execute(live).scalar_one_or_none() is None:
                return False
            _add_terms(connection, key_id, now, plan, expires_at)
        return True

    def rotate(self, key_id: str, now: datetime, grace: timedelta) -> str | None:
        """Return a new secret of a key; the one before opens it for the time of grace.

        None when there is no such key or it was revoked. Usage, plan and id stay.
        """
        secret = _new_secret()
        with writing(self._engine) as connection:
            query = select(api_keys.c.secret_sha256).where(_is_live(key_id))
            former = connection.execute(query).scalar_one_or_none()
            if former is None:
                return None
            connection.execute(delete(former_secrets).where(former_secrets.c.good_until <= now))
            if grace > timedelta(0):
                values = {"secret_sha256": former, "key_id": key_id, "good_until": now + grace}
                connection.execute(insert(former_secrets), [values])
            new = update(api_keys).where(api_keys.c.key_id == key_id).values(secret_sha256=_digest(secret))
            connection.execute(new)
        return secret

    def revoke(self, key_id: str, now: datetime) -> bool:
        """End a key with all its secrets; False when there is no such key or it had ended before."""
        with writing(self._engine) as connection:
            return connection.execute(update(api_keys).where(_is_live(key_id)).values(revoked_at=now)).rowcount == 1


def _new_secret() -> str:
    return f"evt_{secrets.token_urlsafe(32)}"


def _digest(secret: str) -> str:
    # 256 random bits cannot be guessed, so a slow password hash would only cost time.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _is_live(key_id: str) -> ColumnElement[bool]:
    return (api_keys.c.key_id == key_id) & api_keys.c.revoked_at.is_(None)


def _add_terms(
    connection: Connection, key_id: str, now: datetime, plan: str | None, expires_at: datetime | None
) -> None:
    values = {"key_id": key_id, "at": now, "plan": plan, "expires_at": expires_at}
    connection.execute(insert(key_terms), [values])


def _find(connection: Connection, criterion: ColumnElement[bool]) -> ApiKey | None:
    row = connection.execute(select(api_keys).where(criterion)).mappings().one_or_none()
    if row is None:
        return None
    newest = select(key_terms).where(key_terms.c.key_id == row["key_id"]).order_by(key_terms.c.id.desc()).limit(1)
    terms = connection.execute(newest).mappings().one_or_none()
    return _key(dict(row), None if terms is None else dict(terms))


def _key(row: dict[str, Any], terms: dict[str, Any] | None) -> ApiKey:
    loops = row["loops"]
    return ApiKey(
        key_id=row["key_id"],
        name=row["name"],
        loops=None if loops is None else tuple(loops),
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
        plan=None if terms is None else terms["plan"],
        expires_at=None if terms is None else terms["expires_at"],
    )
