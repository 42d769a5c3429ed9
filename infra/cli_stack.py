"""`evertune up`, `down`, `status` and `demo`: the servers as one thing."""

from pathlib import Path
from typing import Annotated

import typer

from configs.load import load_all_loops
from infra.output import JsonOption, Output


def add_to(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    for command in (up, down, status, demo):
        app.command()(command)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the model answers")] = False,
    no_train: Annotated[bool, typer.Option("--no-train", help="Train no first model where there is none")] = False,
) -> None:
    """Start the stack: MLflow, Prefect, worker and prediction service; train a first model where there is none.

    Ctrl-C stops everything it started. State lives under EVERTUNE_HOME (default .evertune): several stacks run side by
    side with different homes and ports.

        evertune up                          evertune up --detach

        EVERTUNE_API_PORT=8001 evertune up
    """
    from infra.background import running_stack, start_detached
    from infra.preflight import read_settings
    from infra.stack import run_stack
    from infra.startup import bring_to_life, describe

    settings = read_settings()
    state = running_stack(settings)
    if state is not None:
        print(f"a stack already runs here (pid {state.supervisor.pid}, {state.phase}); evertune down stops it")
        for line in describe(settings, [loop.name for loop in load_all_loops(settings.loops_dir)], None):
            print(line)
        return
    if detach:
        raise typer.Exit(start_detached(settings, ["--no-train"] if no_train else [], _say))
    print(f"starting the stack in {settings.root}", flush=True)
    raise typer.Exit(run_stack(settings, _say, lambda stack: bring_to_life(stack, train_first=not no_train)))


def down() -> None:
    """Stop the stack of this home, and what a killed one left behind.

    evertune down
    """
    from infra.background import stop_detached
    from infra.preflight import read_settings

    settings = read_settings()
    print("stopped" if stop_detached(settings, _say) else f"no stack runs in {settings.root}")


def status(as_json: JsonOption = False) -> None:
    """Show servers and loops: what runs, which version answers, the last retrain and the last verdict.

    evertune status --json
    """
    from infra.preflight import read_settings
    from infra.status import describe_status, read_status

    found = read_status(read_settings())
    output = Output(as_json)
    for line in describe_status(found):
        output.say(line)
    output.finish(found)


def _say(line: str) -> None:
    print(line, flush=True)


def demo(
    output: Annotated[Path, typer.Option(help="Where the figures go, as JSON")] = Path("demo.json"),
) -> None:
    """Watch the loop close on real text: drift, an alert, labels, a retrain by itself, a release. About ten minutes.

    It runs a stack of its own on free ports, in the folder `demo` of the home, and stops it at the end. Exit code 0
    only if every step was observed and no request failed.

        evertune demo                        evertune demo --output /tmp/demo.json
    """
    from infra.demo.story import run_demo
    from infra.preflight import read_settings

    raise typer.Exit(run_demo(read_settings(), output, _say))
