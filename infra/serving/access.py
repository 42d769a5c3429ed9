"""Who may do what: API keys for customers, the operator token for the rest, a signed session for the pages."""

import asyncio
import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Request

from infra.serving.problems import ApiProblem
from tasks.stores.api_keys import ApiKeys

KEY_CACHE_SECONDS = 5.0  # how long a revoked key may still answer
KEY_CACHE_SIZE = 10_000
SESSION_SECONDS = 12 * 3600
OPERATOR = "operator"


@dataclass(frozen=True)
class Caller:
    """Who calls: a customer's key, or the operator."""

    key_id: str
    loops: tuple[str, ...] | None  # None: all

    def may_use(self, loop: str) -> bool:
        """Say whether this caller may use a loop."""
        return self.loops is None or loop in self.loops


class Access:
    """Checks keys, the operator token and sessions. Secrets are compared in constant time and never kept."""

    def __init__(self, keys: ApiKeys, operator_token: str, cookie: str) -> None:
        self.cookie = cookie  # named after the port: browsers share cookies among the ports of a host
        self._keys = keys
        self._token = operator_token.encode()
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def identify(self, request: Request) -> Caller:
        """Return the caller; raises the 401 problem without a valid key."""
        secret = _bearer(request)
        if self.is_operator(secret):
            return Caller(OPERATOR, None)
        digest = hashlib.sha256(secret.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        key = await asyncio.to_thread(self._keys.find, secret, datetime.now(UTC))
        if key is None:
            self._known.pop(digest, None)
            raise _unauthorized("this key is unknown or revoked")
        if len(self._known) >= KEY_CACHE_SIZE:
            self._known.clear()
        caller = Caller(key.key_id, key.loops)
        self._known[digest] = (time.monotonic() + KEY_CACHE_SECONDS, caller)
        return caller

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

    def form_token(self, request: Request) -> str:
        """Return the token that a form of this session carries, against requests forged by other sites."""
        return self._sign("form", request.cookies.get(self.cookie, ""))

    def is_form_token(self, request: Request, token: str) -> bool:
        """Say whether a form came from a page of this session."""
        return hmac.compare_digest(token.encode(), self.form_token(request).encode())

    def _sign(self, purpose: str, value: str) -> str:
        return hmac.new(self._token, f"{purpose}:{value}".encode(), hashlib.sha256).hexdigest()


def _bearer(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _unauthorized("send 'Authorization: Bearer KEY'")
    return secret.strip()


def _unauthorized(message: str) -> ApiProblem:
    return ApiProblem(401, "unauthorized", message, {"WWW-Authenticate": 'Bearer realm="evertune"'})
