"""What a month costs: by hand-counted amounts, and by the sums that must hold for every amount."""

import csv
import io
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.plans import Plan, Plans
from tasks.core.billing import (
    LoopUsage,
    Statement,
    Term,
    apportion,
    bill,
    find_plan,
    month_bounds,
    months_between,
    sum_revenue,
    sum_usage,
)
from tasks.core.errors import DataError
from tasks.core.statement_page import render_month, render_statement, write_revenue_csv, write_statement_csv

NOVEMBER = date(2026, 11, 1)
SALES = {"requests_per_second": 1, "burst": 5}
PLANS = Plans.model_validate(
    {
        "currency": "EUR",
        "default_plan": "free",
        "plans": {
            "free": {**SALES, "texts_per_month": 100, "beyond": "refuse", "monthly_price": 0},
            "pro": {
                **SALES,
                "texts_per_month": 1000,
                "beyond": "bill",
                "monthly_price": 49.0,
                "price_per_1000_texts": 0.605,
            },
        },
    }
)


def at(day: int, hour: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def bill_pro(*usage: LoopUsage) -> Statement:
    return bill("key_1", "shop", NOVEMBER, PLANS.plans["pro"], "EUR", usage)


@pytest.mark.parametrize(
    ("texts", "beyond", "overage", "amount"),
    [
        (0, 0, "0.00", "49.00"),
        (1000, 0, "0.00", "49.00"),
        (1001, 1, "0.00", "49.00"),  # 0.000605: rounded once, at the end
        (1009, 9, "0.01", "49.01"),  # 0.005445 -> half a cent up
        (3000, 2000, "1.21", "50.21"),
    ],
)
def test_texts_beyond_the_included_ones_are_billed(texts: int, beyond: int, overage: str, amount: str) -> None:
    statement = bill_pro(LoopUsage("toy", 10, texts))
    assert (statement.overage_texts, statement.overage_amount, statement.amount) == (
        beyond,
        Decimal(overage),
        Decimal(amount),
    )


def test_a_plan_that_refuses_bills_no_text() -> None:
    statement = bill("key_1", "shop", NOVEMBER, PLANS.plans["free"], "EUR", [LoopUsage("toy", 1, 103)])
    assert (statement.overage_texts, statement.amount) == (3, Decimal("0.00"))


def test_revenue_is_divided_by_texts_and_adds_up() -> None:
    first = bill_pro(LoopUsage("a", 1, 1), LoopUsage("b", 1, 1), LoopUsage("c", 1, 1))
    assert [one.amount for one in first.loops] == [Decimal("16.34"), Decimal("16.33"), Decimal("16.33")]
    unused = bill_pro()
    revenue = {one.loop: one.amount for one in sum_revenue([first, unused])}
    assert list(revenue) == ["a", "b", "c", "-"]
    assert revenue == {"-": Decimal("49.00"), "a": Decimal("16.34"), "b": Decimal("16.33"), "c": Decimal("16.33")}


@given(
    st.decimals(min_value=0, max_value=10**7, places=2),
    st.lists(st.integers(min_value=0, max_value=10**9), min_size=1, max_size=30),
)
def test_parts_always_add_up_to_the_amount(amount: Decimal, weights: list[int]) -> None:
    parts = apportion(amount, weights)
    assert sum(parts) == (amount if any(weights) else 0)
    assert all(part >= 0 for part in parts)
    assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if weight == 0)


@pytest.mark.parametrize(
    ("terms", "revoked_at", "plan"),
    [
        ([Term(at(5), "pro")], None, "pro"),
        ([Term(at(5, month=12), "pro")], None, None),  # sold later
        ([Term(at(5, month=9), "pro")], at(1), None),  # revoked with the first moment of the month
        ([Term(at(5, month=9), "pro")], at(1, 1), "pro"),
        ([Term(at(5, month=9), "pro", expires_at=at(31, month=10))], None, None),
        ([Term(at(5, month=9), "pro", expires_at=at(30))], None, "pro"),
        ([Term(at(5, month=9), "pro"), Term(at(30), "free")], None, "pro"),  # the dearest counts, not the last
        ([Term(at(5, month=9), "pro"), Term(at(1), "free")], None, "free"),
        ([Term(at(5, month=9), "free"), Term(at(30), "pro")], None, "pro"),
        ([Term(at(5, month=9), None)], None, None),
        ([Term(at(5, month=9), "pro", expires_at=at(30, month=9)), Term(at(20), "free")], None, "free"),
        ([], None, None),
    ],
)
def test_a_month_is_billed_by_the_dearest_plan_in_force(
    terms: list[Term], revoked_at: datetime | None, plan: str | None
) -> None:
    found = find_plan(terms, revoked_at, NOVEMBER, PLANS)
    assert (found and found.name) == plan


def test_a_plan_that_is_gone_is_named() -> None:
    with pytest.raises(DataError, match=r"plan 'gold', needed to bill 2026-11, is not defined; there are: free, pro"):
        find_plan([Term(at(5), "gold")], None, NOVEMBER, PLANS)


def test_months_are_utc_and_end_where_the_next_begins() -> None:
    assert month_bounds(date(2026, 12, 31)) == (at(1, month=12), datetime(2027, 1, 1, tzinfo=UTC))
    late = datetime(2026, 10, 31, 23, 30, tzinfo=UTC)
    assert months_between(late, at(1)) == [date(2026, 10, 1)]
    assert months_between(late, at(1) - timedelta(microseconds=1)) == []
    assert months_between(at(1, month=9), at(15)) == [date(2026, 9, 1), date(2026, 10, 1)]


def test_usage_rows_are_summed_per_key_and_loop() -> None:
    rows = [
        {"key_id": "b", "loop": "toy", "day": "2026-11-01", "requests": 1, "texts": 3},
        {"key_id": "b", "loop": "toy", "day": "2026-11-02", "requests": 2, "texts": 4},
        {"key_id": "a", "loop": "toy", "day": "2026-11-02", "requests": 1, "texts": 1},
    ]
    assert sum_usage(rows) == {"a": [LoopUsage("toy", 1, 1)], "b": [LoopUsage("toy", 3, 7)]}


def test_the_csv_adds_up_and_no_name_becomes_a_formula() -> None:
    statement = bill("key_1", "=HYPERLINK(1)", NOVEMBER, PLANS.plans["pro"], "EUR", [LoopUsage("toy", 2, 3000)])
    lines = [line.split(",") for line in write_statement_csv(statement).splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    amounts = {kind: sum(Decimal(row["amount"]) for row in rows if row["kind"] == kind) for kind in ("charge", "loop")}
    assert amounts == {"charge": Decimal("50.21"), "loop": Decimal("50.21")}
    assert rows[-1]["amount"] == "50.21"
    assert {row["name"] for row in rows} == {"'=HYPERLINK(1)"}
    assert [row["unit_price"] for row in rows if row["item"] == "texts beyond"] == ["0.000605"]
    assert write_revenue_csv("2026-11", [statement]).splitlines()[1] == "2026-11,toy,2,3000,50.21,EUR"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", "\n=1", " =1", "＝1", "＠x"])
def test_a_name_that_a_spreadsheet_would_calculate_is_marked(name: str) -> None:
    statement = bill("key_1", name, NOVEMBER, PLANS.plans["free"], "EUR", [])
    rows = list(csv.DictReader(io.StringIO(write_statement_csv(statement), newline="")))
    assert {row["name"] for row in rows} == {f"'{name}"}


def test_a_small_price_is_written_in_full() -> None:
    plan = PLANS.plans["pro"].model_copy(update={"price_per_1000_texts": Decimal("0.0005")})
    text = write_statement_csv(bill("key_1", "shop", NOVEMBER, plan, "EUR", [LoopUsage("toy", 1, 1001)]))
    assert ",texts,0.0000005,0.00,EUR" in text


def test_the_pages_say_what_is_owed_and_escape_names() -> None:
    statement = bill("key_1", "<b>shop", NOVEMBER, PLANS.plans["pro"], "EUR", [LoopUsage("toy", 2, 3000)])
    page = render_statement(statement)
    assert "EUR 50.21" in page
    assert "EUR 0.605 per 1,000" in page
    assert "&lt;b&gt;shop" in page
    assert "<b>shop" not in page
    month = render_month("2026-11", [statement, bill_pro()])
    assert "EUR 99.21" in month
    assert "paid for and not used" in month
    assert 'href="key_1.html"' in month
    assert render_statement(statement) == page  # the same bytes, whenever they are written


def test_a_plan_knows_its_window() -> None:
    assert (
        Plan.model_validate({**SALES, "texts_per_month": 0, "beyond": "refuse", "monthly_price": 1}).window_seconds == 5
    )
