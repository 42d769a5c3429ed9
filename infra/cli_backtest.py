"""`evertune backtest`: what other policies would have cost and brought on the loop's own history."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from infra.output import JsonOption, Output

if TYPE_CHECKING:
    from tasks.backtest import Progress

LINES = 20  # of progress where nobody watches


def add_to(app: typer.Typer) -> None:
    """Give an application the command of this module."""
    app.command()(backtest)


def backtest(
    loop: Annotated[str, typer.Argument(metavar="LOOP|FILE", help="Name of a loop, or the path of a loop's YAML")],
    model: Annotated[
        Literal["head", "recipe"],
        typer.Option(help="head: a linear head on the frozen base model, seconds; recipe: the loop's own training"),
    ] = "head",
    step_days: Annotated[float, typer.Option(min=0.01, help="Days between two looks")] = 1.0,
    start: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC); rows before it are the stock")
    ] = None,
    label_delay_days: Annotated[
        float, typer.Option(min=0, help="Days between a source's row and its label; feedback knows its own")
    ] = 0.0,
    policies: Annotated[
        list[str] | None,
        typer.Option("--policy", help="never, nightly, 'drift only' or ours; repeatable. Default: all"),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a YAML key for this run; repeatable")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the loop's dated rows and its prediction log under several policies, and compare cost and accuracy.

    Stops and goes on: the same command continues what was interrupted, other rules reuse what was trained.

        evertune backtest product-sentiment

        evertune backtest product-sentiment --set retraining.min_new_labels=50 --policy nightly --policy ours
    """
    from configs.load import ConfigError, find_loop, find_loop_file
    from infra.preflight import read_settings
    from tasks.backtest import Options
    from tasks.backtest import backtest as run_backtest
    from tasks.core.backtest import POLICIES
    from tasks.core.backtest_report import describe_backtest

    chosen = [policy for policy in POLICIES if policies is None or policy in policies]
    if policies and set(policies) - set(POLICIES):
        raise ConfigError(
            f"--policy {', '.join(sorted(set(policies) - set(POLICIES)))}: accepted: {', '.join(POLICIES)}"
        )
    settings = read_settings()
    config = find_loop(loop, settings.loops_dir, changes or [])
    options = Options(
        kind=model,
        step_days=step_days,
        start=start.replace(tzinfo=UTC) if start else None,
        label_delay_days=label_delay_days,
        policies=chosen,
    )
    output = Output(as_json)
    with _show(as_json, output) as report:
        record = run_backtest(config, find_loop_file(loop, settings.loops_dir).parent, settings, options, report)
    for line in describe_backtest(record):
        output.say(line)
    output.finish(record)


@contextmanager
def _show(as_json: bool, output: Output) -> Iterator[Callable[["Progress"], None]]:
    """Yield what draws a bar where a person watches, and says a line now and then elsewhere."""
    stream = sys.stderr if as_json else sys.stdout
    if not stream.isatty():
        yield _Lines(output)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.percentage:3.0f} %  {task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda progress: bar.update(task, completed=progress.share, description=progress.told)


class _Lines:
    """Says a line for every twentieth part that is done."""

    def __init__(self, output: Output) -> None:
        self._output, self._said = output, -1

    def __call__(self, progress: "Progress") -> None:
        """Say where it is, unless that was said."""
        part = int(progress.share * LINES)
        if part > self._said:
            self._said = part
            self._output.say(f"{progress.share:4.0%}  {progress.told}")
