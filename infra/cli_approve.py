"""`evertune approve`: a person's yes or no to a version that the gate lets through."""

import getpass
from typing import Annotated, Any

import typer

from configs.load import find_loop
from configs.settings import Settings
from infra.output import REFUSED, JsonOption, Output
from tasks.core.errors import DataError


def add_to(app: typer.Typer) -> None:
    """Give an application the command of this module."""
    app.command()(approve)


def approve(
    loop: Annotated[str, typer.Argument(help="Name of a loop, a file of configs/loops without .yaml")],
    version: Annotated[str | None, typer.Option(help="Default: the version that waits")] = None,
    no: Annotated[bool, typer.Option("--no", help="It is not released and stays a challenger")] = False,
    why: Annotated[str, typer.Option(help="The reason, for the audit log")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the gate's table, and answer nothing")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say yes (or --no) to a version that the gate lets through, where release.approval is required.

    Shows the gate's table. Exit code 3 when nothing is released after a yes: it came too late, the champion changed
    meanwhile, or the service refused. Exit code 2 when nobody was asked about the version.

        evertune approve product-sentiment --dry-run

        evertune approve product-sentiment --why "read the hardest errors"
    """
    from infra.preflight import read_settings
    from infra.running import prepare_process

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    has_server = prepare_process(settings)
    from tasks.approval import look_at_question  # imports Prefect, which reads its environment then

    output = Output(as_json)
    asked = look_at_question(config, version)
    if asked.version is None and asked.has_ended:
        output.say(f"nothing was released: {asked.table}")
        output.finish({"loop": config.name, "version": version, "status": "ended", "reason": asked.table})
        raise typer.Exit(REFUSED)
    if asked.version is None:
        raise DataError(f"{config.name}: {asked.table}")
    for line in [*asked.table.splitlines(), ""]:
        output.say(line)
    if dry_run:
        _show_only(asked.version, asked.problem, config.name, no, output)
        return
    answer = {"answer": "no" if no else "yes", "why": why, "who": getpass.getuser()}
    record = _answer(config.name, asked.version, answer, settings, output, has_server)
    output.finish(record)
    if record["status"] not in ("serving", "pending", "staged", "turned down"):
        raise typer.Exit(REFUSED)


def _show_only(version: str, problem: str, loop: str, no: bool, output: Output) -> None:
    would = "let it go" if no else "release it"
    output.say(f"an answer would count for nothing: {problem}" if problem else f"would {would}; nothing was changed")
    output.finish({"loop": loop, "version": version, "problem": problem or None, "dry_run": True})


def _answer(
    loop: str, version: str, answer: dict[str, str], settings: Settings, output: Output, has_server: bool
) -> dict[str, Any]:
    """Answer the flow run that waits in Prefect, or where none does, settle the question in this process."""
    from infra.records import describe_record, find_record
    from infra.running import resume_flow, run_flow
    from tasks.stores.approval_runs import list_asking

    waiting = [run for run in list_asking(loop, settings) if run.version == version and run.can_resume]
    if has_server and waiting:
        outcome = resume_flow(waiting[0].flow_run_id, answer, waiting[0].url, output.say)
    else:
        parameters = {"loop": loop, "version": version, **answer}
        outcome = run_flow("approve", loop, parameters, settings, output.say, here=True)
    record = find_record("approve", loop, outcome, settings)
    for line in describe_record("approve", record):
        output.say(line)
    return record
