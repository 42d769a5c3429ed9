"""What a key used and what its plan includes, counted from the prediction log itself."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request

from configs.plans import Plans
from infra.serving.access import OPERATOR, Caller
from infra.serving.api import WhoCalls, problems
from infra.serving.bodies import UsageRow
from infra.serving.key_bodies import PlanUsage
from infra.serving.problems import ApiProblem
from infra.serving.service import Service, service_of
from tasks.core.billing import Statement, month_bounds
from tasks.core.errors import DataError

EARLIEST = date(2020, 1, 1)  # before the first prediction of any stack
router = APIRouter(prefix="/v1", tags=["usage"])


@router.get("/usage", response_model=list[UsageRow], responses=problems(401, 422, 503))
async def read_usage(
    request: Request,
    caller: WhoCalls,
    since: Annotated[date | None, Query(description="First UTC day; 30 days ago by default", ge=EARLIEST)] = None,
    until: Annotated[date | None, Query(description="Last UTC day; today by default", ge=EARLIEST)] = None,
) -> list[UsageRow]:
    """Return what this key used per loop and UTC day; with the operator token, what every key used."""
    today = datetime.now(UTC).date()
    last = min(until or today, today)
    first = since or last - timedelta(days=30)
    if first > last:
        raise ApiProblem(422, "invalid_request", f"since: {first} is after {last}")
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
    key_id = None if caller.key_id == OPERATOR else caller.key_id
    frame = await asyncio.to_thread(service_of(request).log.usage, key_id, start, end)
    return [UsageRow.model_validate(row) for row in frame.to_dict("records")]


@router.get("/usage/plan", response_model=PlanUsage, responses=problems(401, 503))
async def read_plan(request: Request, caller: WhoCalls) -> PlanUsage:
    """Return the plan of this key, what it includes this month, and what is used and left of it."""
    return await asyncio.to_thread(describe_plan, service_of(request), caller, datetime.now(UTC))


def describe_plan(service: Service, caller: Caller, now: datetime) -> PlanUsage:
    """Return a caller's plan and its use of the month that a time lies in."""
    start, end = month_bounds(now.date())
    used = int(service.log.usage(caller.key_id, start, end)["texts"].sum())
    key, plan, plans = service.keys.get(caller.key_id), caller.plan, service.plans.read()
    owed = _find_statement(service, caller.key_id, start.date(), plans)
    return PlanUsage(
        plan=None if plan is None else plan.name,
        description="" if plan is None else plan.description,
        used=used,
        included=None if plan is None else plan.texts_per_month,
        left=None if plan is None else max(plan.texts_per_month - used, 0),
        beyond=None if plan is None else plan.beyond,
        overage=0 if plan is None else max(used - plan.texts_per_month, 0),
        resets_at=end,
        requests_per_second=None if plan is None else plan.requests_per_second,
        burst=None if plan is None else plan.burst,
        currency=None if plan is None and owed is None else plans.currency,
        monthly_price=None if plan is None else f"{plan.monthly_price:.2f}",
        price_per_1000_texts=str(plan.price_per_1000_texts) if plan is not None and plan.price_per_1000_texts else None,
        amount=None if owed is None else str(owed.amount),
        expires_at=None if key is None else key.expires_at,
    )


def _find_statement(service: Service, key_id: str, month: date, plans: Plans) -> Statement | None:
    """Return what a key's statement would say now; None without one, or while a plan it had is defined no more."""
    try:
        return next(iter(service.statements.preview(month, plans, key_id)), None)
    except DataError:
        return None
