"""What a key's plan allows: requests in a window, texts in a month, and the headers that tell the client.

Nothing here touches the database while a request waits, except for the first request of a key in a month: from then on
the month's texts are counted as their answers are committed. A key without a plan has no limits.
Headers: draft-ietf-httpapi-ratelimit-headers, and the three RateLimit-* headers of its older versions.
"""

import logging
import math
import time
from datetime import datetime

from fastapi import Request
from pydantic import SecretStr

from configs.plans import Plan
from infra.serving.access import Caller
from infra.serving.problems import ApiProblem
from infra.serving.quotas import MonthCount, Quotas, Reservation
from infra.serving.windows import Window, Windows, open_windows
from tasks.stores.prediction_log import PredictionLog

logger = logging.getLogger(__name__)
REFRESH_SECONDS = 30.0  # how late a replica learns what the others answered
ADMISSION = "evertune.admission"  # where a request carries its admission


class Admission(Reservation):
    """The leave to answer one request's texts. Whoever got it says how many were answered and logged.

    The service closes it when the request ends.
    """

    __slots__ = ("headers",)

    def __init__(self, headers: dict[str, str], month: MonthCount | None = None, num_texts: int = 0) -> None:
        super().__init__(month, num_texts)
        self.headers = headers


class Limits:
    """The limits of all keys of one running service."""

    def __init__(self, windows: Windows, quotas: Quotas) -> None:
        self._windows = windows
        self.quotas = quotas

    async def admit(self, caller: Caller, num_texts: int) -> Admission:
        """Return the leave to answer texts; raises the 429 problem when the caller's plan does not allow them now."""
        plan = caller.plan
        if plan is None:
            return Admission({})
        window = await self._windows.pass_one(caller.key_id, plan.burst, plan.window_seconds)
        month = await self.quotas.month_of(caller.key_id)
        if not window.is_open:
            raise _rate_limited(plan, window, month)
        if plan.beyond == "refuse" and num_texts > month.left(plan.texts_per_month):
            raise _quota_exceeded(caller, plan, window, month, num_texts)
        admission = Admission({}, month, num_texts)
        admission.headers = describe(plan, window, month)  # with these texts taken off
        return admission

    async def close(self) -> None:
        """Let go of the connections to a shared store."""
        await self._windows.close()


def open_limits(url: SecretStr | None, log: PredictionLog) -> Limits:
    """Return the limits of a service whose usage is what its prediction log says; `url`: EVERTUNE_LIMITS_URL."""

    def count_texts(key_id: str, since: datetime, until: datetime) -> int:
        return int(log.usage(key_id, since, until)["texts"].sum())

    windows = open_windows(None if url is None else url.get_secret_value())
    return Limits(windows, Quotas(count_texts, None if url is None else REFRESH_SECONDS))


async def admit(request: Request, caller: Caller, num_texts: int) -> Admission:
    """Return the leave to answer a request's texts; raises the 429 problem when the plan does not allow them now.

    The service adds the admission's headers to the answer and closes it when the request ends: what was not settled by
    then counts for nothing.
    """
    limits: Limits = request.app.state.service.limits
    admission: Admission = await limits.admit(caller, num_texts)
    request.scope[ADMISSION] = admission
    return admission


def describe(plan: Plan, window: Window, month: MonthCount) -> dict[str, str]:
    """Return the headers that tell a client what its plan allows and what is left of it."""
    policy = f'"requests";q={plan.burst};w={plan.window_seconds}'
    state = f'"requests";r={window.left};t={window.resets_in}'
    limit, left, reset = plan.burst, window.left, window.resets_in
    if plan.beyond == "refuse":  # billed texts have no end that a client must heed
        texts, month_reset = month.left(plan.texts_per_month), _seconds_left(month)
        policy += f', "texts";q={plan.texts_per_month};qu="texts"'
        state += f', "texts";r={texts};t={month_reset}'
        if texts < left:
            limit, left, reset = plan.texts_per_month, texts, month_reset
    return {
        "RateLimit-Policy": policy,
        "RateLimit": state,
        "RateLimit-Limit": str(limit),
        "RateLimit-Remaining": str(left),
        "RateLimit-Reset": str(reset),
    }


def _seconds_left(month: MonthCount) -> int:
    return max(1, math.ceil(month.ends_at - time.time()))


def _rate_limited(plan: Plan, window: Window, month: MonthCount) -> ApiProblem:
    allowed = f"plan '{plan.name}' allows {plan.burst} requests in {plan.window_seconds} s"
    return ApiProblem(
        429,
        "rate_limited",
        f"{allowed}; try again in {window.resets_in} s",
        {**describe(plan, window, month), "Retry-After": str(window.resets_in)},
    )


def _quota_exceeded(caller: Caller, plan: Plan, window: Window, month: MonthCount, num_texts: int) -> ApiProblem:
    if not month.is_told and not month.left(plan.texts_per_month):
        month.is_told = True
        logger.warning("%s used up the %d texts of plan '%s'", caller.key_id, plan.texts_per_month, plan.name)
    left = month.left(plan.texts_per_month)
    return ApiProblem(
        429,
        "quota_exceeded",
        f"plan '{plan.name}' includes {plan.texts_per_month} texts per month, {left} are left, {num_texts} were asked",
        {**describe(plan, window, month), "Retry-After": str(_seconds_left(month))},
    )
