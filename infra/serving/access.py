"""Who may do what: API keys for customers, the operator token for the rest, a signed session for the pages."""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Request

from configs.plans import Plan, PlanFile
from infra.serving.problems import ApiProblem, not_ready
from tasks.stores.api_keys import ApiKey, ApiKeys

logger = logging.getLogger(__name__)
KEY_CACHE_SECONDS = 5.0  # how long a revoked key may still answer
KEY_LOOK_SECONDS = 2.5  # a key in use is looked up anew after this, behind its answers
KEY_CACHE_SIZE = 10_000
SESSION_SECONDS = 12 * 3600
OPERATOR = "operator"


@dataclass(frozen=True)
class Caller:
    """Who calls: a customer's key, or the operator."""

    key_id: str
    loops: tuple[str, ...] | None  # None: all
    plan: Plan | None = None  # None: no limits

    def may_use(self, loop: str) -> bool:
        """Say whether this caller may use a loop."""
        return self.loops is None or loop in self.loops


@dataclass(frozen=True)
class _Known:
    caller: Caller
    looked_at: float


class Access:
    """Checks keys, the operator token and sessions. Secrets are compared in constant time and never kept."""

    def __init__(self, keys: ApiKeys, plans: PlanFile, operator_token: str, cookie: str) -> None:
        self.cookie = cookie  # named after the port: browsers share cookies among the ports of a host
        self._keys = keys
        self._plans = plans
        self._token = operator_token.encode()
        self._known: dict[bytes, _Known] = {}
        self._looks: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._num_changes = 0

    async def identify(self, request: Request) -> Caller:
        """Return the caller; raises the 401 problem without a valid key."""
        secret = _bearer(request)
        if self.is_operator(secret):
            return Caller(OPERATOR, None)
        digest = hashlib.sha256(secret.encode()).digest()
        known = self._known.get(digest)
        age = KEY_CACHE_SECONDS if known is None else time.monotonic() - known.looked_at
        if known is not None and age < KEY_CACHE_SECONDS:
            if age >= KEY_LOOK_SECONDS:
                self._look_up(digest, secret)
            return known.caller
        caller = await asyncio.shield(self._look_up(digest, secret))
        if caller is None:
            raise _unauthorized("this key is unknown, expired or revoked")
        return caller

    def forget(self, key_id: str) -> None:
        """Look a key up before it answers again: it was changed just now."""
        self._known = {digest: known for digest, known in self._known.items() if known.caller.key_id != key_id}
        self._looks = {}  # they may have read the key as it was: who comes from now on does not wait for them
        self._num_changes += 1

    def _look_up(self, digest: bytes, secret: str) -> "asyncio.Task[Caller | None]":
        """Return the look at the store that is under way for a secret: one, however many requests wait for it."""
        look = self._looks.get(digest)
        if look is None:
            look = self._looks[digest] = asyncio.create_task(self._remember(digest, secret))
            look.add_done_callback(lambda done: self._end_look(digest, done))
        return look

    def _end_look(self, digest: bytes, look: "asyncio.Task[Caller | None]") -> None:
        if self._looks.get(digest) is look:
            del self._looks[digest]
        error = None if look.cancelled() else look.exception()
        if error is not None and not isinstance(error, ApiProblem):  # who waits for it is told as well
            logger.warning("a key could not be looked up: %s: %s", type(error).__name__, error)

    async def _remember(self, digest: bytes, secret: str) -> Caller | None:
        started, num_changes = time.monotonic(), self._num_changes
        caller = await asyncio.to_thread(self._find, secret)
        if caller is None:
            self._known.pop(digest, None)
            return None
        if len(self._known) >= KEY_CACHE_SIZE:
            self._known.clear()
        if num_changes == self._num_changes:  # else it may have been read before the change
            self._known[digest] = _Known(caller, started)
        return caller

    def _find(self, secret: str) -> Caller | None:
        key = self._keys.find(secret, datetime.now(UTC))
        return None if key is None else self._caller(key)

    def _caller(self, key: ApiKey) -> Caller:
        if key.plan is None:
            return Caller(key.key_id, key.loops)
        plan = self._plans.read().plans.get(key.plan)
        if plan is None:
            logger.error("%s has plan '%s', which the plans file does not define", key.key_id, key.plan)
            raise not_ready("the plan of this key is not known at the moment", 60)
        loops = key.loops if plan.loops is None else tuple(one for one in plan.loops if key.may_use(one))
        return Caller(key.key_id, loops, plan)

    async def require_operator(self, request: Request) -> None:
        """Raise the 401 or 403 problem unless the operator token or a session is shown."""
        if self.has_session(request):
            return
        if not self.is_operator(_bearer(request)):
            raise ApiProblem(403, "forbidden", "this route needs the operator token")

    def is_operator(self, secret: str) -> bool:
        """Say whether a secret is the operator token."""
        return hmac.compare_digest(secret.encode("utf-8", "replace"), self._token)

    def open_session(self) -> str:
        """Return a session cookie's value: an expiry and its signature, not the token."""
        expiry = str(int(time.time()) + SESSION_SECONDS)
        return f"{expiry}.{self._sign('session', expiry)}"

    def has_session(self, request: Request) -> bool:
        """Say whether the request carries a valid session."""
        expiry, _, signature = request.cookies.get(self.cookie, "").partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", expiry).encode()):
            return False
        return expiry.isdigit() and int(expiry) > time.time()

    def _sign(self, purpose: str, value: str) -> str:
        return hmac.new(self._token, f"{purpose}:{value}".encode(), hashlib.sha256).hexdigest()


def _bearer(request: Request) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    kind = scheme.lower()
    secret = value.strip() if kind == "bearer" else _password(value) if kind == "basic" else ""
    if not secret:
        raise _unauthorized("send 'Authorization: Bearer KEY'")
    return secret


def _password(credentials: str) -> str:
    """Return the password of Basic credentials: the key, from clients that can send no other header, as MLflow's."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2].strip()
    except ValueError:
        return ""


def _unauthorized(message: str) -> ApiProblem:
    return ApiProblem(401, "unauthorized", message, {"WWW-Authenticate": 'Bearer realm="evertune"'})
