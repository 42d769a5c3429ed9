"""`evertune cases`: a loop's behavioural cases, asked of a version."""

from dataclasses import asdict
from typing import Annotated

import typer

from infra.output import REFUSED, JsonOption, Output


def add_to(app: typer.Typer) -> None:
    """Give an application the command of this module."""
    app.command()(cases)


def cases(
    loop: Annotated[str, typer.Argument(help="Name of a loop, a file of configs/loops without .yaml")],
    version: Annotated[str | None, typer.Option(metavar="N", help="A version; default: the champion")] = None,
    every: Annotated[bool, typer.Option("--all", help="List the cases that passed too")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the champion the behavioural cases of NAME.cases.yaml, as the gate asks a challenger; nothing is changed.

    Ends with exit code 3 when fewer pass than the file's min_passed_share.

        evertune cases product-sentiment

        evertune cases product-sentiment --version 3 --json
    """
    from configs.load import ConfigError, find_loop
    from infra.preflight import read_settings
    from tasks.core.behaviour import count_by_kind, describe_kind, judge_cases
    from tasks.scoring import load_champion

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    if not config.behaviour.cases:
        raise ConfigError(f"{config.name} has no cases; write them into {config.name}.cases.yaml beside its YAML")
    found, predictor = load_champion(config.name, version)
    results = judge_cases(config.behaviour, predictor.labels, predictor.predict)
    counted = count_by_kind(results, config.behaviour)
    output = Output(as_json)
    for result in results:
        if every or not result.passed:
            mark = "ok    " if result.passed else "failed"
            output.say(f"{mark} {result.number:3} {result.kind:<10} {result.text!r}: expected {result.expected}, "
                       f"answered {result.answered}")  # fmt: skip
    output.say(f"{config.name} version {found}:")
    for one in counted:
        output.say(f"  {'ok' if one.is_met else 'missed'}: {describe_kind(one)}")
    is_met = all(one.is_met for one in counted)
    output.finish({
        "loop": config.name,
        "version": found,
        "is_met": is_met,
        "kinds": [asdict(one) | {"is_met": one.is_met} for one in counted],
        "cases": [asdict(result) for result in results],
    })  # fmt: skip
    if not is_met:
        raise typer.Exit(REFUSED)
