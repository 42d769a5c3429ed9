"""`evertune tune`: the search for a better recipe, with a bar where a person watches."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from infra.output import REFUSED, JsonOption, Output

SECONDS_BETWEEN_LOOKS = 0.5


def add_to(app: typer.Typer) -> None:
    """Give an application the command of this module."""
    app.command()(tune)


def tune(
    loop: Annotated[str, typer.Argument(metavar="LOOP|FILE", help="Name of a loop, or the path of a loop's YAML")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of the study, those of earlier calls included")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long; the next call goes on")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a YAML key for this run; repeatable")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the best recipe into the loop's file")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search for a better recipe: keys and ranges stand under `tuning` in the loop's YAML, validation rows judge.

    The first trial is today's recipe. A search that was stopped or killed goes on with the same command; other data,
    another recipe or space begin a new one. With --write, exit code 3 when the best gains no more than one standard
    error, or no more than the luckiest of so many equal recipes would (at `gate.confidence`).

        evertune tune product-sentiment --trials 30 --minutes 60

        evertune tune product-sentiment --set tuning.seeds=3 --write
    """
    from configs.edit import refuse_temporary
    from configs.load import find_loop, find_loop_file
    from infra.preflight import read_settings
    from infra.records import describe_record, find_record
    from infra.running import run_flow

    if write:
        refuse_temporary(changes or [])
    settings = read_settings()
    budget = {"trials": trials, "minutes": minutes}
    named = [f"tuning.{name}={value}" for name, value in budget.items() if value is not None]
    config = find_loop(loop, settings.loops_dir, [*(changes or []), *named])
    path = find_loop_file(loop, settings.loops_dir).resolve()
    is_known = path.parent == settings.loops_dir.resolve()
    target = path.stem if is_known else str(path)
    parameters = {"loop": target, "changes": {**budget, "set": changes or []}, "write": write}
    output = Output(as_json)
    with _bar(settings.root / "tuning" / f"{config.name}.progress.json", as_json):
        outcome = run_flow("tune", target, parameters, settings, output.say, not is_known)
    record = find_record("tune", target, outcome, settings)
    for line in describe_record("tune", record):
        output.say(line)
    output.finish(record)
    if write and not record["written"]:
        raise typer.Exit(REFUSED)


@contextmanager
def _bar(file: Path, as_json: bool) -> Iterator[None]:
    """Draw a bar below the lines while a search runs, from the file that it keeps; nothing where nobody watches."""
    stream = sys.stderr if as_json else sys.stdout
    if not stream.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %{task.fields[told]}"))
    over = threading.Event()
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        task = progress.add_task("search", total=1.0, told="", visible=False)

        def follow() -> None:
            while not over.wait(SECONDS_BETWEEN_LOOKS):
                standing = _read(file)
                if standing is not None:
                    best = "" if standing["best"] is None else f", best {standing['best']:.4f}"
                    left = "" if standing["seconds_left"] is None else f", {standing['seconds_left'] / 60:.0f} min left"
                    told = f"  trial {standing['finished']}/{standing['trials']}{best}{left}"
                    progress.update(task, completed=standing["share"], told=told, visible=True)

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _read(file: Path) -> dict[str, float | None] | None:
    try:
        found: dict[str, float | None] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
