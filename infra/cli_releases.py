"""`evertune releases` and `evertune served`: where a version stands on its way, and what served when."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.load import ConfigError, find_loop
from infra.output import JsonOption, Output
from tasks.core.staging import ServedThen, find_served

if TYPE_CHECKING:  # the help must come at once, and the database takes half a second to import
    from tasks.stores.ledger import AuditRow
    from tasks.stores.releases import StagedRelease

LoopArgument = Annotated[str, typer.Argument(help="Name of a loop, a file of configs/loops without .yaml")]
SHOWN = 20  # rows of the history


def add_to(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    app.command()(releases)
    app.command()(served)


def releases(
    loop: LoopArgument,
    limit: Annotated[int, typer.Option(min=1, help="So many of the newest entries")] = SHOWN,
    as_json: JsonOption = False,
) -> None:
    """Show the version that is on its way through shadow and canary, what its limits say, and what was released before.

    evertune releases product-sentiment
    """
    from infra.preflight import read_settings
    from tasks.stores.database import open_database
    from tasks.stores.ledger import Ledger
    from tasks.stores.releases import Releases

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    engine = open_database(settings.database)
    store, audit = Releases(engine), Ledger(engine).audit(config.name)
    running, recent = store.find_running(config.name), store.list_recent(config.name, limit)
    record = {
        "loop": config.name,
        "serves": asdict(find_served(audit)),
        "running": asdict(running) if running else None,
        "releases": [
            asdict(one) | {"steps": [asdict(step) for step in store.list_steps(one.release_id)]} for one in recent
        ],
        "audit": [asdict(row) for row in audit[-limit:]],
    }
    output = Output(as_json)
    for line in describe_releases(config.name, running, audit[-limit:], find_served(audit)):
        output.say(line)
    output.finish(record)


def served(
    loop: LoopArgument,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="ISO time, UTC unless it names a zone; default: now")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which version served at a time, since when and why, and which one was in shadow or canary then.

    evertune served product-sentiment --at 2026-11-24T09:30
    """
    from infra.preflight import read_settings
    from tasks.stores.database import open_database
    from tasks.stores.ledger import Ledger

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    moment = read_time(at) if at is not None else datetime.now(UTC)
    found = find_served(Ledger(open_database(settings.database)).audit(config.name), moment)
    output = Output(as_json)
    output.say(describe_served(config.name, found, moment))
    output.finish({"loop": config.name, "at": moment, **asdict(found)})


def read_time(text: str) -> datetime:
    """Return a time, UTC unless it names a zone; raises ConfigError for what is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        accepted = "2026-11-24, 2026-11-24T09:30, 2026-11-24T09:30+01:00"
        raise ConfigError(f"--at: '{text}' is no time; accepted: {accepted}") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def describe_served(loop: str, found: ServedThen, at: datetime) -> str:
    """Return one line for people: the champion, and beside it a version in a stage."""
    then = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    if found.version is None:
        return f"{loop}: nothing served at {then}"
    line = f"{loop}: version {found.version} served at {then}, since {found.since:%Y-%m-%d %H:%M:%S} UTC"
    line += f" ({found.who}: {found.why})" if found.why else f" ({found.who})"
    if found.candidate is None:
        return line
    return f"{line}; version {found.candidate} in {found.stage} since {found.stage_since:%Y-%m-%d %H:%M:%S} UTC"


def describe_releases(
    loop: str, running: "StagedRelease | None", audit: "list[AuditRow]", serves: ServedThen
) -> list[str]:
    """Return what is on its way, and the history, as lines for people."""
    since = f" since {serves.since:%Y-%m-%d %H:%M} UTC" if serves.since else ""
    lines = [f"{loop}: version {serves.version} serves{since}" if serves.version else f"{loop}: nothing serves"]
    if running is not None:
        lines += _describe_running(running)
    lines += ["", "when (UTC)        what      version  who"] if audit else []
    lines += [
        f"{row.at:%Y-%m-%d %H:%M}  {row.action:<8}  {row.to_version or '–':<7}  {row.who}: {row.why}"
        for row in reversed(audit)
    ]
    return lines


def _describe_running(running: "StagedRelease") -> list[str]:
    lines = [
        f"version {running.version} is in {running.stage} since {running.entered_at:%Y-%m-%d %H:%M} UTC, "
        f"on its way since {running.started_at:%Y-%m-%d %H:%M} ({running.who}: {running.why})",
        f"  {running.reason}",
    ]
    limits: list[dict[str, Any]] = running.record.get("limits", [])
    return lines + [f"  {limit['state']:<6}  {limit['name']}: {limit['reason']}" for limit in limits]
