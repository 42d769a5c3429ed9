"""Who looks at the pages: the operator, or a person who labels; and the tokens that their forms carry."""

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from fastapi import Request

from infra.serving.access import OPERATOR, SESSION_SECONDS, Access, Caller
from tasks.stores.labellers import Labeller, Labellers


@dataclass(frozen=True)
class Visitor:
    """Who looks: the operator sees all; a labeller the texts of some loops (None: of all)."""

    name: str  # under which labels are kept
    is_operator: bool
    loops: tuple[str, ...] | None = None

    @property
    def caller(self) -> Caller:
        """Return the visitor as the routes of the API know callers."""
        return Caller(OPERATOR if self.is_operator else f"labeller:{self.name}", self.loops)


class Sessions:
    """Knows visitors by their cookies. The operator's cookie is that of `Access`; a labeller has one of its own."""

    def __init__(self, access: Access, labellers: Labellers, operator_token: str, port: int) -> None:
        self.access = access
        self.labellers = labellers
        self.labeller_cookie = f"evertune_labeller_{port}"
        self.visit_cookie = f"evertune_visit_{port}"
        self._secret = operator_token.encode()

    async def find_visitor(self, request: Request) -> Visitor | None:
        """Return who looks, or None; an operator who also came with a labeller's pass labels under that name."""
        person = await self._find_labeller(request)
        if self.access.has_session(request):
            return Visitor(person.name if person else OPERATOR, True)
        return None if person is None else Visitor(person.name, False, person.loops)

    def open_labeller_session(self, person: Labeller) -> str:
        """Return the cookie of a person who showed a pass: who, until when, and a signature."""
        claim = f"{person.labeller_id}.{int(time.time()) + SESSION_SECONDS}"
        return f"{claim}.{self._sign('labeller', claim)}"

    def visit_of(self, request: Request) -> str:
        """Return the random mark of a browser, to which its forms are bound; a new one where it has none."""
        return request.cookies.get(self.visit_cookie) or secrets.token_hex(16)

    def form_token(self, request: Request, visit: str) -> str:
        """Return the token that a form carries, against requests forged by other sites."""
        held = (request.cookies.get(name, "") for name in (self.access.cookie, self.labeller_cookie))
        return self._sign("form", ":".join((visit, *held)))

    def is_form_token(self, request: Request, token: str) -> bool:
        """Say whether a form came from a page that this browser was shown in this session."""
        visit = request.cookies.get(self.visit_cookie, "")
        return bool(visit) and hmac.compare_digest(token.encode(), self.form_token(request, visit).encode())

    async def _find_labeller(self, request: Request) -> Labeller | None:
        claim, _, signature = request.cookies.get(self.labeller_cookie, "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("labeller", claim).encode()):
            return None
        labeller_id, _, expiry = claim.partition(".")
        if not expiry.isdigit() or int(expiry) <= time.time():
            return None
        return await asyncio.to_thread(self.labellers.get, labeller_id)  # each time: a pass may have been ended

    def _sign(self, purpose: str, value: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{value}".encode(), hashlib.sha256).hexdigest()
