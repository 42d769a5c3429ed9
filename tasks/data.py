"""The data stage: rows in, a snapshot out."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from configs.load import find_loop
from configs.schema import Loop
from configs.settings import Settings
from tasks.core.errors import DataError
from tasks.core.feedback_rows import admit_rows
from tasks.core.predictor import UNKNOWN
from tasks.core.rows import apply_mends, order_rows, rows_of_feedback, settle_feedback
from tasks.core.screening import Screened, screen
from tasks.core.validation_page import render_validation_page
from tasks.feedback import judge_feedback
from tasks.retries import is_transient
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.snapshots import Snapshot, SnapshotStore, fingerprint_rows
from tasks.stores.sources import load_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotTaken:
    """A snapshot and what it cost: reading and writing, and judging (0 when an existing one was reused)."""

    snapshot: Snapshot
    reused: bool
    seconds_snapshot: float
    seconds_validate: float
    read_at: datetime  # labels that came later are not in it


@task(name="read configuration", cache_policy=NO_CACHE)
def read_loop(loop: str, changes: Sequence[str] = ()) -> Loop:
    """Return a loop's configuration, read afresh from its YAML, after `a.b=value` changes."""
    before = find_loop(loop, Settings().loops_dir).model_dump(mode="json")
    config = find_loop(loop, Settings().loops_dir, changes)
    for change in changes:
        key = change.partition("=")[0]
        after = config.model_dump(mode="json")
        get_run_logger().info("changed for this run: %s: %s -> %s", key, _look_up(before, key), _look_up(after, key))
    return config


def _look_up(config: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        config = config[int(key)] if isinstance(config, list) else (config or {}).get(key)
    return config


@task(
    name="take snapshot",
    retries=3,
    retry_delay_seconds=[5, 20, 60],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def take_snapshot(config: Loop, config_dir: Path, settings: Settings) -> SnapshotTaken:
    """Load a loop's rows and feedback, and return their snapshot: the one there is, or a new one once validated.

    Raises DataError when the set must not be trained on; the champion keeps serving.
    """
    log = get_run_logger()
    started, read_at = time.perf_counter(), datetime.now(UTC)
    store = SnapshotStore(settings.snapshots)
    raw = gather_rows(config, config_dir, settings, store)
    fingerprint = fingerprint_rows(raw, config)
    known = store.find(config.name, fingerprint)
    if known is not None:
        log.info("snapshot %s of %s is unchanged: %s", fingerprint, config.name, known.counts)
        return SnapshotTaken(known, True, time.perf_counter() - started, 0.0, read_at)
    before = time.perf_counter()
    screened = screen(raw, config.data, config.labels)
    seconds_validate = time.perf_counter() - before
    snapshot = _keep(store, config, fingerprint, screened, settings)
    log.info("snapshot %s of %s: %s from %d rows", fingerprint, config.name, snapshot.counts, screened.n_raw)
    _publish(snapshot, settings)
    seconds_snapshot = time.perf_counter() - started - seconds_validate
    return SnapshotTaken(snapshot, False, seconds_snapshot, seconds_validate, read_at)


def gather_rows(config: Loop, config_dir: Path, settings: Settings, store: SnapshotStore) -> pd.DataFrame:
    """Return the raw rows of all sources and of feedback, with what people mended."""
    rows = load_rows(config, config_dir, settings.root)
    if config.data.use_feedback:
        engine = open_database(settings.database)
        judged = judge_feedback(engine, config)
        labelled = rows_of_feedback(PredictionLog(engine).labelled_rows(config.name))
        admitted = admit_rows(labelled, judged.settled, config.data.splits)
        logger.info("%d of %d labels that came back are used", len(admitted), len(labelled))
        feedback = settle_feedback(admitted, rows)
        if UNKNOWN not in config.labels:  # said of texts outside the loop's scope: no label to train on
            feedback = feedback[feedback["label"] != UNKNOWN]
        rows = order_rows(pd.concat([rows, feedback], ignore_index=True))
    return apply_mends(rows, store.read_mended(config.name))


def page_url(settings: Settings, loop: str, fingerprint: str) -> str:
    """Return where the prediction service shows the validation page."""
    return f"{settings.api}/validation/{loop}/{fingerprint}"


def _keep(store: SnapshotStore, config: Loop, fingerprint: str, screened: Screened, settings: Settings) -> Snapshot:
    now = datetime.now(UTC)
    page = render_validation_page(
        loop=config.name, fingerprint=fingerprint, made_at=now, labels=config.labels, screened=screened
    )
    if not screened.problems:
        return store.write(config, fingerprint, screened, page, now)
    place = store.refuse(config, fingerprint, screened, page, now)
    raise DataError(
        f"loop '{config.name}': the data set {fingerprint} is refused, the champion keeps serving:\n"
        + "\n".join(f"- {problem}" for problem in screened.problems)
        + f"\nSee {place} or {page_url(settings, config.name, fingerprint)}; mend the source, or the rows with: "
        f"evertune quarantine {config.name} --export FILE"
    )


def _publish(snapshot: Snapshot, settings: Settings) -> None:
    url = page_url(settings, snapshot.loop, snapshot.fingerprint)
    numbers: Mapping[str, int] = {**snapshot.counts, "duplicates": snapshot.duplicates, "leaks": snapshot.leaks}
    lines = [f"| {name} | {number:,} |" for name, number in numbers.items()]
    create_markdown_artifact(
        key=f"{snapshot.loop}-data",
        description=f"Data of {snapshot.loop}, snapshot {snapshot.fingerprint}",
        markdown="\n".join([f"### [Data validation]({url})", "", "| rows | n |", "|---|---:|", *lines]),
    )
