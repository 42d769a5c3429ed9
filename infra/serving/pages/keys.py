"""Keys and usage: who may call and by which plan; what each used this month, and what that will cost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import HTMLResponse, Response

from configs.plans import Plans
from infra.serving.access import OPERATOR
from infra.serving.bodies import Name
from infra.serving.pages.charts import draw_traffic
from infra.serving.pages.rendering import (
    PageRoute,
    check_form,
    go_to,
    read_all_fields,
    require_operator,
    show,
    tell,
    words_of,
)
from infra.serving.problems import ApiProblem, describe_errors
from infra.serving.service import Service, service_of
from tasks.core.billing import month_bounds
from tasks.core.errors import DataError
from tasks.stores.api_keys import ApiKey

NAME: TypeAdapter[str] = TypeAdapter(Name)
GRACE_HOURS = {"0": 0, "1": 1, "24": 24, "168": 168}
DAYS = {"": None, "7": 7, "30": 30, "90": 90, "365": 365}
USAGE_DAYS = 30
SHOWN_MONTHS = 12

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True)
class Used:
    """What a key used of its plan this month; `amount` is what its statement would say now, None without a plan."""

    key: ApiKey
    state: str
    texts: int
    included: int | None
    amount: Decimal | None

    @property
    def share(self) -> float:
        """Return the used part of the included texts, at most 1."""
        return min(self.texts / self.included, 1.0) if self.included else float(bool(self.texts))


@router.get("/keys")
async def show_keys(request: Request) -> Response:
    """Show the keys with what they used this month."""
    await require_operator(request)
    return await _show(request)


@router.post("/keys")
async def change_keys(request: Request) -> Response:
    """Make, rotate or end a key; a new secret is shown in this answer only."""
    visitor = await require_operator(request)
    service = service_of(request)
    every = await read_all_fields(request)
    fields = {name: values[-1] for name, values in every.items()}
    check_form(request, fields)
    now = datetime.now(UTC)
    if "revoke" in fields:
        await asyncio.to_thread(service.keys.revoke, fields["revoke"], now)
        service.access.forget(fields["revoke"])
        return go_to("/keys")
    try:
        if "rotate" in fields:
            key, secret = await asyncio.to_thread(_rotate, service, fields, now)
        else:
            loops = [service.slot_for(name, visitor.caller).loop.name for name in every.get("loop", [])]
            key, secret = await asyncio.to_thread(_create, service, fields, loops, now)
    except ValidationError as error:
        return await _show(request, 422, problem=describe_errors(error.errors()))
    except ApiProblem as problem:
        return await _show(request, problem.status, problem=tell(words_of(request), problem))
    return await _show(request, made=key, secret=secret)


def _create(service: Service, fields: dict[str, str], loops: Sequence[str], now: datetime) -> tuple[ApiKey, str]:
    name, plan = NAME.validate_python(fields.get("name", "").strip()), fields.get("plan") or None
    if plan is not None and plan not in service.plans.read().plans:
        raise ApiProblem(422, "unknown_plan", "plan: there is no such plan")
    days = DAYS.get(fields.get("days", ""))
    expires_at = None if days is None else now + timedelta(days=days)
    return service.keys.create(name, loops or None, now, plan=plan, expires_at=expires_at)


def _rotate(service: Service, fields: dict[str, str], now: datetime) -> tuple[ApiKey, str]:
    grace = timedelta(hours=GRACE_HOURS.get(fields.get("grace", ""), 24))
    secret = service.keys.rotate(fields["rotate"], now, grace)
    key = service.keys.get(fields["rotate"])
    service.access.forget(fields["rotate"])
    if secret is None or key is None:
        raise ApiProblem(404, "unknown_key", "there is no such live key")
    return key, secret


async def _show(
    request: Request, status: int = 200, *, problem: str = "", made: ApiKey | None = None, secret: str = ""
) -> HTMLResponse:
    found = await asyncio.to_thread(_read_usage, service_of(request), datetime.now(UTC))
    words = words_of(request)
    chart = draw_traffic(found.pop("days"), words)
    return await show(
        request, "keys.html", status, problem=problem, made=made, secret=secret, chart=chart, grace=list(GRACE_HOURS),
        expiries=list(DAYS), loops=sorted(service_of(request).slots), **found,
    )  # fmt: skip


def _read_usage(service: Service, now: datetime) -> dict[str, Any]:
    plans = service.plans.read()
    start, end = month_bounds(now.date())
    first = now.date() - timedelta(days=USAGE_DAYS - 1)
    earliest = min(first, start.date())  # one look at the log for the month and the chart
    window = service.log.usage(None, datetime(earliest.year, earliest.month, earliest.day, tzinfo=UTC), end)
    month = window[window["day"] >= start.date().isoformat()]
    texts = {str(key_id): int(n) for key_id, n in month.groupby("key_id")["texts"].sum().items()}
    amounts = _preview_amounts(service, start.date(), plans)
    used = [
        Used(key, key.state(now), texts.get(key.key_id, 0), _included(key, plans), amounts.get(key.key_id))
        for key in service.keys.list()
    ]
    asked_here = texts.get(OPERATOR, 0)
    by_day = {str(day): int(n) for day, n in window.groupby("day")["texts"].sum().items()}
    days = [first + timedelta(days=back) for back in range(USAGE_DAYS)]
    return {
        "plans": plans,
        "month": f"{start:%Y-%m}",
        "bills": [_sum_month(service, one) for one in service.statements.months()[: -SHOWN_MONTHS - 1 : -1]],
        "resets_at": end,
        "used": sorted(used, key=lambda one: (one.state != "valid", -one.texts, one.key.name)),
        "asked_here": asked_here,
        "by_loop": month.groupby("loop", as_index=False)[["requests", "texts"]].sum().to_dict("records"),
        "days": [(day, by_day.get(day.isoformat(), 0)) for day in days],
    }


def _sum_month(service: Service, month: str) -> dict[str, Any]:
    """Return a billed month with its number of statements and the amounts by currency."""
    amounts: dict[str, Decimal] = {}
    written = service.statements.read(month)
    for one in written:
        amounts[one.currency] = amounts.get(one.currency, Decimal(0)) + one.amount
    return {"month": month, "n": len(written), "amounts": sorted(amounts.items())}


def _included(key: ApiKey, plans: Plans) -> int | None:
    plan = plans.plans.get(key.plan) if key.plan is not None else None
    return None if plan is None else plan.texts_per_month


def _preview_amounts(service: Service, month: date, plans: Plans) -> dict[str, Decimal]:
    """Return what each key's statement would say now; nothing while a key has a plan that is defined no more."""
    try:
        return {one.key_id: one.amount for one in service.statements.preview(month, plans)}
    except DataError:
        return {}
