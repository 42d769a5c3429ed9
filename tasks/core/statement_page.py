"""Monthly statements as people and spreadsheets read them. The same statement always gives the same bytes."""

import csv
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tasks.core.billing import UNUSED, Statement, sum_revenue
from tasks.core.spreadsheet import as_cell
from tasks.core.validation_page import render_page

STATEMENT_COLUMNS = (
    "kind", "month", "key_id", "name", "plan", "item", "loop", "quantity", "unit", "unit_price", "amount", "currency"
)  # fmt: skip
REVENUE_COLUMNS = ("month", "loop", "requests", "texts", "amount", "currency")


def render_statement(statement: Statement) -> str:
    """Return the page of one key's month."""
    return render_page("statement_page.html", one=statement, lines=_charges(statement), money=money, number=number)


def render_month(month: str, statements: Sequence[Statement]) -> str:
    """Return the page of a month: what each loop earned, and every key's amount with a link to its statement."""
    totals = [(currency, _total(statements, currency)) for currency in _currencies(statements)]
    revenue = [(currency, sum_revenue(_of(statements, currency))) for currency in _currencies(statements)]
    by_amount = sorted(statements, key=lambda one: (-one.amount, one.name, one.key_id))
    return render_page(
        "month_page.html",
        month=month,
        totals=totals,
        revenue=revenue,
        statements=by_amount,
        money=money,
        number=number,
        unused=UNUSED,
    )


def write_statement_csv(statement: Statement) -> str:
    """Return one key's month as csv. `charge` rows add up to the `total` row, and so do the `loop` rows."""
    common = {"month": statement.month, "key_id": statement.key_id, "name": as_cell(statement.name)}
    common |= {"plan": statement.plan, "currency": statement.currency}
    rows = [{"kind": "charge", **common, **line} for line in _charges(statement)]
    rows += [
        {"kind": "loop", **common, "item": "share", "loop": one.loop, "quantity": one.texts, "unit": "texts",
         "amount": one.amount}
        for one in statement.loops
    ]  # fmt: skip
    rows.append({"kind": "total", **common, "item": "total", "amount": statement.amount})
    return _csv(STATEMENT_COLUMNS, rows)


def write_revenue_csv(month: str, statements: Sequence[Statement]) -> str:
    """Return what each loop earned in a month as csv; loop `-` is what was paid for and not used."""
    rows = [
        {**vars(one), "month": month, "currency": currency}
        for currency in _currencies(statements)
        for one in sum_revenue(_of(statements, currency))
    ]
    return _csv(REVENUE_COLUMNS, rows)


def money(amount: Decimal | None, currency: str) -> str:
    """Return an amount for people, such as EUR 1,234.50; a price keeps its decimals."""
    if amount is None:
        return ""
    places = max(2, -int(amount.as_tuple().exponent))
    return f"{currency} {amount:,.{places}f}"


def number(value: int) -> str:
    """Return a count for people."""
    return f"{value:,}"


def _charges(statement: Statement) -> list[dict[str, Any]]:
    free = Decimal("0.00")
    used = min(statement.texts, statement.included_texts)
    lines: list[dict[str, Any]] = [
        {"item": "monthly price", "quantity": 1, "unit": "month", "unit_price": statement.monthly_price,
         "amount": statement.monthly_price},
        {"item": "included texts", "quantity": used, "unit": "texts", "unit_price": free, "amount": free},
    ]  # fmt: skip
    if statement.overage_texts:
        price = statement.price_per_1000_texts
        lines.append(
            {"item": "texts beyond", "quantity": statement.overage_texts, "unit": "texts",
             "unit_price": free if price is None else price / 1000, "amount": statement.overage_amount}
        )  # fmt: skip
    return lines


def _currencies(statements: Sequence[Statement]) -> list[str]:
    return sorted({one.currency for one in statements})


def _of(statements: Sequence[Statement], currency: str) -> list[Statement]:
    return [one for one in statements if one.currency == currency]


def _total(statements: Sequence[Statement], currency: str) -> Decimal:
    return sum((one.amount for one in _of(statements, currency)), Decimal("0.00"))


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:  # Decimal itself would write 5E-7
        writer.writerow({name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in row.items()})
    return stream.getvalue()
