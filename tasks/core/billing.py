"""What a month of a key costs, to the cent and to the text. All amounts are decimals; nothing is rounded twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

from configs.plans import Plan, Plans
from tasks.core.errors import DataError

CENT = Decimal("0.01")
UNUSED = "-"  # stands for a loop where an amount belongs to none


@dataclass(frozen=True)
class Term:
    """What a key is sold by from a time on, until its next term, its expiry or its end."""

    at: datetime
    plan: str | None  # None: no limits and no statement
    expires_at: datetime | None = None


@dataclass(frozen=True)
class LoopUsage:
    """What a key used of one loop in a month."""

    loop: str
    requests: int
    texts: int


@dataclass(frozen=True)
class LoopRevenue:
    """A loop's part of a statement: the amount is divided by texts, and the parts add up to it."""

    loop: str
    requests: int
    texts: int
    amount: Decimal


@dataclass(frozen=True)
class Statement:
    """What one key owes for one month, and for what."""

    month: str  # 2026-11
    key_id: str
    name: str
    plan: str
    currency: str
    monthly_price: Decimal
    included_texts: int
    texts: int
    overage_texts: int  # beyond the included ones; billed only where the plan has a price for them
    price_per_1000_texts: Decimal | None
    overage_amount: Decimal
    amount: Decimal
    loops: tuple[LoopRevenue, ...]


def month_bounds(day: date) -> tuple[datetime, datetime]:
    """Return the UTC times between which the calendar month of a day lies; the second is no longer in it."""
    first = datetime(day.year, day.month, 1, tzinfo=UTC)
    return first, datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)


def months_between(first: datetime, until: datetime) -> list[date]:
    """Return the first day of every month that began at or before a time and has ended by another."""
    months = []
    start, end = month_bounds(first.astimezone(UTC).date())
    while end <= until:
        months.append(start.date())
        start, end = month_bounds(end.date())
    return months


def find_plan(terms: Sequence[Term], revoked_at: datetime | None, month: date, plans: Plans) -> Plan | None:
    """Return the plan that a month is billed by: the dearest that the key was valid with at any time of it.

    Whoever moves to a smaller plan on the last day has used the larger one. None: no plan was in force. `terms` are in
    order of time. Raises DataError for a plan that the plans no longer define.
    """
    start, end = month_bounds(month)
    found = []
    for position, term in enumerate(terms):
        ends = [revoked_at, term.expires_at, terms[position + 1].at if position + 1 < len(terms) else None]
        last = min((one for one in ends if one is not None), default=None)
        is_in_month = term.at < end and (last is None or last > max(start, term.at))
        if is_in_month and term.plan is not None:
            if term.plan not in plans.plans:
                known = ", ".join(plans.plans)
                raise DataError(f"plan '{term.plan}', needed to bill {month:%Y-%m}, is not defined; there are: {known}")
            found.append(plans.plans[term.plan])
    return max(found, key=lambda plan: (plan.monthly_price, plan.texts_per_month), default=None)


def bill(key_id: str, name: str, month: date, plan: Plan, currency: str, usage: Sequence[LoopUsage]) -> Statement:
    """Return a key's statement: the monthly price, and the texts beyond the included ones where the plan bills them."""
    texts = sum(one.texts for one in usage)
    beyond = max(texts - plan.texts_per_month, 0)
    price = plan.price_per_1000_texts
    overage = Decimal("0.00") if price is None else (price * beyond / 1000).quantize(CENT, ROUND_HALF_UP)
    monthly_price = plan.monthly_price.quantize(CENT)
    amount = monthly_price + overage
    shares = apportion(amount, [one.texts for one in usage])
    return Statement(
        month=f"{month:%Y-%m}",
        key_id=key_id,
        name=name,
        plan=plan.name,
        currency=currency,
        monthly_price=monthly_price,
        included_texts=plan.texts_per_month,
        texts=texts,
        overage_texts=beyond,
        price_per_1000_texts=price,
        overage_amount=overage,
        amount=amount,
        loops=tuple(
            LoopRevenue(one.loop, one.requests, one.texts, share) for one, share in zip(usage, shares, strict=True)
        ),
    )


def apportion(amount: Decimal, weights: Sequence[int]) -> list[Decimal]:
    """Divide an amount by weights into whole cents that add up to it: the largest remainders get the last cents.

    Without any weight every part is 0: what nobody used has earned no loop anything.
    """
    total = sum(weights)
    if not total:
        return [Decimal("0.00")] * len(weights)
    exact = [amount * weight / total for weight in weights]
    parts = [one.quantize(CENT, ROUND_FLOOR) for one in exact]
    missing = int((amount - sum(parts)) / CENT)
    by_remainder = sorted(range(len(parts)), key=lambda position: (parts[position] - exact[position], position))
    for position in by_remainder[:missing]:
        parts[position] += CENT
    return parts


def sum_revenue(statements: Sequence[Statement]) -> list[LoopRevenue]:
    """Return what each loop earned in all statements, the most first; last, as `-`, what was paid for and not used."""
    summed: dict[str, LoopRevenue] = {}
    for statement in statements:
        unused = statement.amount - sum((one.amount for one in statement.loops), Decimal("0.00"))
        rest = [LoopRevenue(UNUSED, 0, 0, unused)] if unused else []
        for one in (*statement.loops, *rest):
            known = summed.get(one.loop, LoopRevenue(one.loop, 0, 0, Decimal("0.00")))
            summed[one.loop] = LoopRevenue(
                one.loop, known.requests + one.requests, known.texts + one.texts, known.amount + one.amount
            )
    return sorted(summed.values(), key=lambda one: (one.loop == UNUSED, -one.amount, one.loop))


def sum_usage(rows: Sequence[Mapping[str, object]]) -> dict[str, list[LoopUsage]]:
    """Return each key's usage per loop, by loop name, from rows of `PredictionLog.usage`."""
    summed: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        place = (str(row["key_id"]), str(row["loop"]))
        requests, texts = summed.get(place, (0, 0))
        summed[place] = (requests + int(str(row["requests"])), texts + int(str(row["texts"])))
    found: dict[str, list[LoopUsage]] = {}
    for (key_id, loop), (requests, texts) in sorted(summed.items()):
        found.setdefault(key_id, []).append(LoopUsage(loop, requests, texts))
    return found
