"""`evertune usage`: who called the prediction API how much, and what that costs."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.load import ConfigError
from infra.output import JsonOption, Output

if TYPE_CHECKING:
    from tasks.core.billing import LoopRevenue, Statement

NO_PLAN = "no plan"


def usage(
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="A UTC calendar month; the running one by default")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only this key's id")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=3660, help="Instead of a month: rows per key, loop and day")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what every key used and owes in a month, and what each loop earned; all counted from the prediction log.

    evertune usage --month 2026-11

    evertune usage --key key_0123456789ab --days 7
    """
    if days is not None:
        if month is not None:
            raise ConfigError("give either --month or --days")
        _show_days(key, days, Output(as_json))
    else:
        _show_month(_read_month(month), key, Output(as_json))


def _show_month(month: date, key_id: str | None, output: Output) -> None:
    from configs.plans import load_plans
    from infra.preflight import read_settings
    from tasks.core.billing import month_bounds, sum_revenue, sum_usage
    from tasks.stores.api_keys import ApiKeys
    from tasks.stores.database import open_database
    from tasks.stores.prediction_log import PredictionLog
    from tasks.stores.statements import Statements

    settings = read_settings()
    engine = open_database(settings.database)
    names = {known.key_id: known.name for known in ApiKeys(engine).list()}
    if key_id is not None and key_id not in names:
        raise ConfigError(f"no key '{key_id}'; see: evertune keys list")
    store = Statements(engine)
    billed = store.preview(month, load_plans(settings.plans_file), key_id)
    rows = PredictionLog(engine).usage(key_id, *month_bounds(month)).to_dict("records")
    with_plan = {one.key_id for one in billed}
    others = {key: used for key, used in sum_usage(rows).items() if key not in with_plan}
    written = {one.key_id for one in store.read(f"{month:%Y-%m}")}
    is_final = bool(written) and with_plan <= written
    output.say(f"{month:%Y-%m}, {'as billed' if is_final else 'so far'}")
    for one in billed:
        output.say(_describe(one))
    for key, used in others.items():
        output.say(f"{key:<16}  {names.get(key, key):<20} {NO_PLAN:<10} {sum(part.texts for part in used):>10,} texts")
    revenue = sum_revenue(billed)
    _say_revenue(revenue, billed, output)
    if not billed and not others:
        output.say("no request, and no key with a plan")
    output.finish(
        {
            "month": f"{month:%Y-%m}",
            "is_final": is_final,
            "statements": [asdict(one) for one in billed],
            "without_plan": [{"key_id": key, **asdict(part)} for key, used in others.items() for part in used],
            "revenue": [asdict(one) for one in revenue],
        }
    )


def _describe(one: "Statement") -> str:
    used = f"{one.texts:>10,} of {one.included_texts:,} texts"
    beyond = f", {one.overage_texts:,} beyond" if one.overage_texts else ""
    return f"{one.key_id:<16}  {one.name:<20} {one.plan:<10} {used}{beyond}  {one.currency} {one.amount:,}"


def _say_revenue(revenue: "Sequence[LoopRevenue]", billed: "Sequence[Statement]", output: Output) -> None:
    from tasks.core.billing import UNUSED

    if not billed:
        return
    output.say(f"revenue by loop, {billed[0].currency}:")
    for one in revenue:
        loop = "paid for and not used" if one.loop == UNUSED else one.loop
        output.say(f"  {loop:<24} {one.texts:>10,} texts  {one.amount:>12,}")


def _show_days(key_id: str | None, days: int, output: Output) -> None:
    from infra.preflight import read_settings
    from tasks.stores.database import open_database
    from tasks.stores.prediction_log import PredictionLog

    now = datetime.now(UTC)
    log = PredictionLog(open_database(read_settings().database))
    rows: list[dict[Any, Any]] = log.usage(key_id, now - timedelta(days=days), now).to_dict("records")
    for row in rows:
        output.say("  ".join(str(value) for value in row.values()))
    if not rows:
        output.say(f"no request in the last {days} days")
    output.finish(rows)


def _read_month(text: str | None) -> date:
    today = datetime.now(UTC).date()
    if text is None:
        return today.replace(day=1)
    try:
        month = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise ConfigError(f"--month {text}: no month; accepted: 2026-11") from error
    if month > today:
        raise ConfigError(f"--month {text}: has not begun")
    return month
