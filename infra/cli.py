"""The `evertune` command: its verbs are the flows, and up, down, status for the stack."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from configs.load import ConfigError, find_loop, find_loop_file, load_all_loops
from configs.plans import load_plans
from infra import (
    cli_approve,
    cli_backtest,
    cli_cases,
    cli_data,
    cli_drift,
    cli_keys,
    cli_labels,
    cli_releases,
    cli_stack,
    cli_tuning,
)
from infra.output import FAILED, REFUSED, USAGE, JsonOption, Output
from tasks.core.errors import DataError, TransientError

app = typer.Typer(
    help="Keeps fine-tuned text classifiers true to today's data. Start with `evertune up`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 done, 1 failed, 2 bad configuration, data or usage, 3 a gate said no.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_stack.add_to(app)

LoopArgument = Annotated[str, typer.Argument(help="Name of a loop, a file of configs/loops without .yaml")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a YAML key for this run; repeatable")
]
WhyOption = Annotated[str, typer.Option(help="The reason, for the audit log and the alert")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing")]


@app.command()
def retrain(
    loop: Annotated[str, typer.Argument(metavar="LOOP|FILE", help="Name of a loop, or the path of a loop's YAML")],
    changes: SetOption = None,
    force: Annotated[bool, typer.Option(help="Train even if data, configuration and code are the champion's")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a snapshot, fine-tune, judge against the champion, register, and release what wins.

    Ends with exit code 3 when the gate kept the challenger from becoming champion.

        evertune retrain product-sentiment

        evertune retrain product-sentiment --set training.epochs=1 --set training.method=lora --json
    """
    from infra.preflight import read_settings

    settings = read_settings()
    find_loop(loop, settings.loops_dir, changes or [])  # a wrong change is told here, not in a failed flow run
    path = find_loop_file(loop, settings.loops_dir).resolve()
    is_known = path.parent == settings.loops_dir.resolve()
    target = path.stem if is_known else str(path)
    parameters = {"loop": target, "changes": {"set": changes or []}, "force": force}
    record = _run("retrain", target, parameters, as_json, here=not is_known)
    if record["status"] == "trained" and not record["decision"]["promote"]:
        raise typer.Exit(REFUSED)
    if record.get("released") in ("refused", "outdated"):
        raise typer.Exit(REFUSED)


@app.command()
def monitor(loop: LoopArgument, as_json: JsonOption = False) -> None:
    """Compare the newest logged texts with the champion's test rows, and act on what is found.

    evertune monitor product-sentiment --json
    """
    _run("monitor", loop, {"loop": loop}, as_json)


@app.command()
def score(
    loop: LoopArgument,
    source: Annotated[Path, typer.Argument(metavar="IN", help="A csv, jsonl or parquet file")],
    target: Annotated[Path | None, typer.Argument(metavar="OUT", help="Default: IN's name with .scored")] = None,
    text_column: Annotated[str, typer.Option(help="The column that holds the text")] = "text",
    as_json: JsonOption = False,
) -> None:
    """Label every row of a file with the champion; rows that cannot be scored are listed with their reason.

    evertune score product-sentiment reviews.csv

    evertune score product-sentiment reviews.parquet labelled.parquet --text-column body
    """
    parameters = {"loop": loop, "input_path": str(source.absolute()), "text_column": text_column}
    if target is not None:
        parameters["output_path"] = str(target.absolute())
    record = _run("score", loop, parameters, as_json)
    print(f"wrote {record['output']}", file=sys.stderr if as_json else sys.stdout)


@app.command()
def release(
    loop: LoopArgument,
    version: Annotated[str, typer.Argument(help="Number of the version in the MLflow registry")],
    why: WhyOption = "",
    now: Annotated[bool, typer.Option("--now", help="Serve everyone at once, without shadow and canary")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the service answer with a registered version, after its checks; exit code 3 when it refuses.

    Where the loop asks for stages, it goes through them first: `evertune releases` shows where it stands.

        evertune release product-sentiment 3 --why "better on the newest slice"

        evertune release product-sentiment 3 --now
    """
    if dry_run:
        _plan_move(loop, version, as_json, now=now)
        return
    parameters = {"loop": loop, "version": version, "why": why, "now": now}
    _finish_move(_run("release", loop, parameters, as_json))


@app.command()
def rollback(
    loop: LoopArgument,
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="Default: the champion before this one")] = None,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go back to the version that served before, or to a version of your choice.

    While a version is on its way through shadow and canary, that one is taken back and the champion serves on.

    evertune rollback product-sentiment

    evertune rollback product-sentiment --to 2 --why "complaints since Monday"
    """
    if dry_run:
        _plan_move(loop, None if to is None else to, as_json, is_rollback=True)
        return
    _finish_move(_run("rollback", loop, {"loop": loop, "to": to, "why": why}, as_json))


@app.command()
def predict(
    loop: LoopArgument,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT…", help="Texts to label")],
    as_json: JsonOption = False,
) -> None:
    """Label texts with the champion, through the service when it runs (the answers are logged), else in this process.

    evertune predict product-sentiment "Great picture" "It broke after a week"
    """
    from infra.predicting import predict_texts
    from infra.preflight import read_settings

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    answer = predict_texts(config, texts, settings)
    output = Output(as_json)
    for text, prediction in zip(texts, answer["predictions"], strict=True):
        output.say(f"{prediction['label']:<12} {prediction['score']:.3f}  {text[:100]}")
    output.finish(answer)


@app.command()
def check(loops: Annotated[list[str] | None, typer.Argument(metavar="[LOOP…]", help="Default: all")] = None) -> None:
    """Check loops' YAML files and the plans of the prediction API; every problem as file:line: key: message.

    evertune check                       evertune check product-sentiment my-loop.yaml
    """
    from infra.preflight import find_label_problems, find_plan_problems, read_settings

    settings = read_settings()
    found = [find_loop(loop, settings.loops_dir) for loop in loops] if loops else load_all_loops(settings.loops_dir)
    if problems := [*find_label_problems(found, settings), *find_plan_problems(settings)]:
        raise ConfigError("\n".join(problems))
    for loop in found:
        print(f"{loop.name}: fits the schema ({len(loop.labels)} labels, {len(loop.data.sources)} sources)")
    print(f"{settings.plans_file.name}: fits the schema ({', '.join(load_plans(settings.plans_file).plans)})")


app.add_typer(cli_keys.app, name="keys")
cli_data.add_to(app)
cli_cases.add_to(app)
cli_approve.add_to(app)
cli_drift.add_to(app)
cli_labels.add_to(app)
cli_releases.add_to(app)
cli_tuning.add_to(app)
cli_backtest.add_to(app)


def main() -> None:
    """Run the command; our own errors become one clear line and an exit code."""
    from infra.running import FlowFailedError

    try:
        app()
    except (ConfigError, DataError) as error:
        _fail(error, USAGE)
    except (TransientError, FlowFailedError) as error:
        _fail(error, FAILED)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(name: str, loop: str, parameters: dict[str, Any], as_json: bool, here: bool = False) -> dict[str, Any]:
    """Run a flow to its end and print what it found; return its record."""
    from infra.preflight import read_settings
    from infra.records import describe_record, find_record
    from infra.running import run_flow

    settings = read_settings()
    if not here:
        find_loop_file(loop, settings.loops_dir)
    output = Output(as_json)
    outcome = run_flow(name, loop, parameters, settings, output.say, here)
    record = find_record(name, loop, outcome, settings)
    for line in describe_record(name, record):
        output.say(line)
    output.finish(record)
    return record


def _plan_move(loop: str, version: str | None, as_json: bool, is_rollback: bool = False, now: bool = False) -> None:
    from infra.preflight import read_settings
    from tasks.release import choose_rollback
    from tasks.stores.database import open_database
    from tasks.stores.model_registry import open_registry
    from tasks.stores.releases import Releases

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    registry = open_registry(settings)
    target = choose_rollback.fn(config, version) if is_rollback else registry.get(loop, version or "")
    chosen = target.version
    champion = registry.find(loop, "champion")
    running = Releases(open_database(settings.database)).find_running(loop)
    record: dict[str, Any] = {"loop": loop, "from": champion.version if champion else None, "to": chosen}
    record["stages"] = [] if is_rollback or now or champion is None else list(config.release.stages.names)
    record |= {"ends": running.version if running and running.version != chosen else None, "dry_run": True}
    way = f" through {' and '.join(record['stages'])}" if record["stages"] else ""
    ends = f"; the release of version {record['ends']} would end" if record["ends"] else ""
    output = Output(as_json)
    output.say(f"{loop}: would go from version {record['from']} to version {chosen}{way}{ends}; nothing was changed")
    output.finish(record)


def _finish_move(record: dict[str, Any]) -> None:
    if record["status"] in ("refused", "outdated"):
        raise typer.Exit(REFUSED)


def _fail(error: Exception, code: int) -> None:
    for line in str(error).splitlines():
        print(f"evertune: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
