"""`evertune drift`: what changed, and what people decide about it: mute it, accept it as normal, take that back."""

import getpass
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from configs.load import ConfigError, find_loop
from configs.schema import Loop
from configs.settings import Settings
from infra.output import JsonOption, Output
from tasks.core.errors import DataError

if TYPE_CHECKING:
    from tasks.core.drift_decisions import DriftDecision
    from tasks.stores.ledger import ReportRow

Action = Literal["show", "mute", "unmute", "acknowledge", "restore"]
SHOWN = 10  # decisions


def add_to(app: typer.Typer) -> None:
    """Give an application the command of this module."""
    app.command()(drift)


def drift(
    loop: Annotated[str, typer.Argument(help="Name of a loop, a file of configs/loops without .yaml")],
    action: Annotated[Action, typer.Argument(help="What to do")] = "show",
    why: Annotated[str, typer.Option(help="The reason, for the audit log; every decision needs one")] = "",
    hours: Annotated[float | None, typer.Option(help="mute: for how long", min=0.01, max=24 * 90)] = None,
    report: Annotated[
        str | None, typer.Option(metavar="ID", help="acknowledge: the window's report; default: the newest")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what changed in the newest window, or decide about it. Windows are judged and kept as ever meanwhile.

    **mute**: for some hours no alert is sent and drift starts nothing. **unmute** ends that. **acknowledge**: the
    window is normal now, and later windows of this version are compared with it. **restore**: with the test rows again.

        evertune drift product-sentiment

        evertune drift product-sentiment mute --hours 72 --why "a campaign"

        evertune drift product-sentiment acknowledge --why "the new shop is live"
    """
    from infra.preflight import read_settings

    settings, output = read_settings(), Output(as_json)
    config = find_loop(loop, settings.loops_dir)
    _check_options(action, hours, report)
    if action == "show":
        _show(config, settings, output)
        return
    decision, told = _make_decision(config, settings, action, hours, report)
    decision = replace(decision, why=why)
    if not why.strip():
        raise ConfigError(f"evertune drift {config.name} {action}: say why with --why; the audit log keeps it")
    if not dry_run:
        from tasks.stores.database import open_database
        from tasks.stores.drift_decisions import DriftDecisions

        DriftDecisions(open_database(settings.database)).keep(config.name, decision)
    output.say(f"{config.name}: would {told}; nothing was changed" if dry_run else f"{config.name}: {told}")
    output.finish({"loop": config.name, "dry_run": dry_run, **asdict(decision)})


def _check_options(action: Action, hours: float | None, report: str | None) -> None:
    if (hours is not None) != (action == "mute"):
        told = "a mute ends by itself: give --hours" if action == "mute" else f"--hours does not go with {action}"
        raise ConfigError(told)
    if report is not None and action != "acknowledge":
        raise ConfigError(f"--report does not go with {action}")


def _make_decision(
    config: Loop, settings: Settings, action: Action, hours: float | None, report: str | None
) -> "tuple[DriftDecision, str]":
    """Return the decision without its reason, and what it does in words; raises DataError where it makes no sense."""
    from tasks.core.drift_decisions import DriftDecision, find_obstacle, stand
    from tasks.stores.database import open_database
    from tasks.stores.drift_decisions import DriftDecisions
    from tasks.stores.model_registry import open_registry

    now, who = datetime.now(UTC), getpass.getuser()
    database = open_database(settings.database)
    if action == "mute":
        until = now + timedelta(hours=hours or 0)
        return DriftDecision(now, "mute", who, "", until), f"mute drift until {until:%Y-%m-%d %H:%M} UTC"
    decisions = DriftDecisions(database).of_loop(config.name)
    if action == "unmute":
        if not stand(decisions, version="", now=now).muted:
            raise DataError(f"{config.name}: drift is not muted")
        return DriftDecision(now, "unmute", who, ""), "unmute drift"
    champion = open_registry(settings).find(config.name, "champion")
    served = champion.version if champion else None
    if action == "restore":
        if served is None or stand(decisions, version=served, now=now).accepted is None:
            raise DataError(f"{config.name}: version {served or 'none'} has no acknowledged window; nothing to restore")
        told = f"compare windows of version {served} with its test rows again"
        return DriftDecision(now, "restore", who, "", version=served), told
    row = _find_report(config.name, settings, report)
    if obstacle := find_obstacle(row.record if row else None, served):
        raise DataError(f"{config.name}: {report or 'the newest window'} cannot be acknowledged: {obstacle}")
    assert row is not None
    window = row.record["window"]
    span = {f"window_{end}": datetime.fromisoformat(window[end]) for end in ("from", "to")}
    told = f"compare windows of version {served} with the {window['n']} texts of report {row.report_id} from now on"
    return DriftDecision(now, "acknowledge", who, "", version=served, report_id=row.report_id, **span), told


def _find_report(loop: str, settings: Settings, report: str | None) -> "ReportRow | None":
    from tasks.stores.database import open_database
    from tasks.stores.ledger import Ledger

    ledger = Ledger(open_database(settings.database))
    return ledger.find_report(loop, report) if report else next(iter(ledger.recent_reports(loop, 1)), None)


def _show(config: Loop, settings: Settings, output: Output) -> None:
    from tasks.core.drift_decisions import stand
    from tasks.core.explanation import describe_change
    from tasks.stores.database import open_database
    from tasks.stores.drift_decisions import DriftDecisions

    row = _find_report(config.name, settings, None)
    decisions = DriftDecisions(open_database(settings.database)).of_loop(config.name)
    record: dict[str, Any] = row.record if row else {}
    standing = stand(decisions, version=str(record.get("version")), now=datetime.now(UTC))
    explanation = record.get("explanation")
    if row is None:
        output.say(f"{config.name}: no window was monitored yet: evertune monitor {config.name}")
    else:
        output.say(f"{config.name}: {row.verdict} at {row.at:%Y-%m-%d %H:%M} UTC, version {row.version}")
        for line in describe_change(explanation):
            output.say(f"  {line}")
    if standing.mute_note:
        output.say(standing.mute_note)
    for one in decisions[-SHOWN:]:
        output.say(f"  {one.at:%Y-%m-%d %H:%M} {one.action} by {one.who}: {one.why}")
    output.finish(
        {
            "loop": config.name,
            "report_id": row.report_id if row else None,
            "verdict": row.verdict if row else None,
            "explanation": explanation,
            "reference": record.get("reference"),
            "muted_until": standing.muted.until if standing.muted else None,
            "decisions": [asdict(one) for one in decisions],
        }
    )
