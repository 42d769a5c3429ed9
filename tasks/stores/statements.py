"""What each key was billed for each month. Once written a statement never changes, whatever becomes of plans."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.dialects import postgresql, sqlite

from configs.plans import Plans
from tasks.core.billing import (
    LoopRevenue,
    Statement,
    bill,
    find_plan,
    month_bounds,
    months_between,
    sum_usage,
)
from tasks.core.errors import DataError
from tasks.stores.api_keys import ApiKey, ApiKeys
from tasks.stores.database import reading, writing
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.schema import statements

SETTLING = timedelta(hours=1)  # after a month's end: what was asked in it is answered and logged by then
MONEY = ("monthly_price", "price_per_1000_texts", "overage_amount", "amount")


class Statements:
    """The statements in a database of `open_database`. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keys = ApiKeys(engine)
        self._log = PredictionLog(engine)

    def write_missing(self, plans: Plans, now: datetime) -> list[Statement]:
        """Bill every ended month that no statement tells of; return the new ones.

        Raises DataError naming every statement that could not be written, after writing all the others.
        """
        terms, problems, written = self._keys.terms(), [], []
        for key in self._keys.list():
            known = terms.get(key.key_id, [])
            if not known:
                continue
            for month in self._unbilled(key, now - SETTLING):
                try:
                    plan = find_plan(known, key.revoked_at, month, plans)
                except DataError as error:
                    problems.append(f"{key.key_id} ({key.name}): {error}")
                    continue
                if plan is not None:
                    usage = self._usage(month, key.key_id).get(key.key_id, [])
                    written.append(bill(key.key_id, key.name, month, plan, plans.currency, usage))
        self._insert(written, now)
        if problems:
            raise DataError("\n".join(problems))
        return written

    def preview(self, month: date, plans: Plans, key_id: str | None = None) -> list[Statement]:
        """Return the statements of a month: the written ones, and for the others what they would say now."""
        written = {one.key_id: one for one in self.read(f"{month:%Y-%m}")}
        terms, usage, found = self._keys.terms(key_id), self._usage(month, key_id), []
        keys = self._keys.list() if key_id is None else [self._keys.get(key_id)]
        for key in keys:
            if key is None:
                continue
            plan = None
            if key.key_id not in written:
                plan = find_plan(terms.get(key.key_id, []), key.revoked_at, month, plans)
            if key.key_id in written:
                found.append(written[key.key_id])
            elif plan is not None:
                mine = usage.get(key.key_id, [])
                found.append(bill(key.key_id, key.name, month, plan, plans.currency, mine))
        return found

    def read(self, month: str) -> list[Statement]:
        """Return the written statements of a month such as 2026-11, by key id."""
        query = select(statements.c.record).where(statements.c.month == month).order_by(statements.c.key_id)
        with reading(self._engine) as connection:
            return [_from_record(record) for record in connection.execute(query).scalars()]

    def months(self) -> list[str]:
        """Return the months that there are statements of, oldest first."""
        query = select(statements.c.month).distinct().order_by(statements.c.month)
        with reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def _unbilled(self, key: ApiKey, until: datetime) -> list[date]:
        query = select(statements.c.month).where(statements.c.key_id == key.key_id)
        with reading(self._engine) as connection:
            billed = set(connection.execute(query).scalars())
        return [month for month in months_between(key.created_at, until) if f"{month:%Y-%m}" not in billed]

    def _usage(self, month: date, key_id: str | None) -> dict[str, Any]:
        return sum_usage(self._log.usage(key_id, *month_bounds(month)).to_dict("records"))

    def _insert(self, written: Sequence[Statement], now: datetime) -> None:
        """Keep statements; where another process wrote one first, that one stays."""
        if not written:
            return
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        values = [{"month": one.month, "key_id": one.key_id, "at": now, "record": _to_record(one)} for one in written]
        with writing(self._engine) as connection:
            connection.execute(dialect.insert(statements).on_conflict_do_nothing(), values)


def _to_record(statement: Statement) -> dict[str, Any]:
    """Return what the database keeps: amounts as text, so that no cent passes through a binary fraction."""
    record = asdict(statement)
    for loop in record["loops"]:
        loop["amount"] = str(loop["amount"])
    return record | {name: None if record[name] is None else str(record[name]) for name in MONEY}


def _from_record(record: dict[str, Any]) -> Statement:
    loops = tuple(LoopRevenue(**{**loop, "amount": Decimal(loop["amount"])}) for loop in record["loops"])
    money = {name: None if record[name] is None else Decimal(record[name]) for name in MONEY}
    return Statement(**{**record, **money, "loops": loops})
