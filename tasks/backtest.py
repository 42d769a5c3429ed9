"""Replays a loop's history under several policies: gathers the dated rows, runs each policy, sums up."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from configs.schema import Loop
from configs.settings import Settings
from tasks.backtest_tools import Kind, Workshop
from tasks.core.backtest import POLICIES, Policy, Replay, Timeline, cut_steps
from tasks.core.backtest_page import render_backtest_page
from tasks.core.backtest_report import summarise_policies
from tasks.core.errors import DataError
from tasks.core.feedback_rows import PREFIX
from tasks.core.retrain_plan import code_version
from tasks.core.rows import TIME
from tasks.core.screening import screen
from tasks.data import gather_rows
from tasks.stores.backtest_files import BacktestFiles, digest
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.prediction_log import GIVEN, PredictionLog
from tasks.stores.retrain_past import recall_past
from tasks.stores.snapshots import SnapshotStore

MAX_LOGGED = 20_000  # newest answered texts that are replayed
MIN_STOCK = 200  # undated labelled rows that make a first champion by themselves
STOCK_SHARE = 0.25  # of the dated labelled rows, where there are too few undated ones
MAX_STEPS = 2000
COLUMNS = ["row_id", "text", "label", "group", "split", "at", "known_at", "picked", "key_id"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a history is replayed."""

    kind: Kind = "head"
    step_days: float = 1.0
    start: datetime | None = None  # None: as soon as there are rows enough for a first champion
    label_delay_days: float = 0.0  # between a source's row and its label; feedback knows its own
    policies: Sequence[Policy] = POLICIES


@dataclass(frozen=True)
class Progress:
    """How far a backtest is: `share` of all steps of all policies, and what is done right now."""

    share: float
    told: str


class _Board:
    """Knows how far a backtest is, whoever has something to tell."""

    def __init__(self, report: Callable[[Progress], None]) -> None:
        self._report, self._share = report, 0.0

    def move(self, share: float, told: str) -> None:
        """Report that so much is done."""
        self._share = share
        self.tell(told)

    def tell(self, told: str) -> None:
        """Report what is done right now."""
        self._report(Progress(self._share, told))


def backtest(
    config: Loop, config_dir: Path, settings: Settings, options: Options, report: Callable[[Progress], None]
) -> dict[str, Any]:
    """Replay a loop's history and return what `evertune backtest --json` prints; its page is under `reports`.

    What was trained and looked at is kept under `backtests`: a killed backtest goes on with the same command, and one
    with other rules trains only what it has not trained yet. Raises DataError where the history does not suffice.
    """
    timeline = gather_timeline(config, config_dir, settings, options)
    cuts = plan_steps(timeline, options.step_days)
    usual = recall_past(Ledger(open_database(settings.database)), config.name, datetime.now(UTC)).history.next_hours
    key, board = _name_timeline(config, timeline), _Board(report)
    files = BacktestFiles(settings.root / "backtests" / config.name / key)
    workshop = Workshop(config, timeline, files, options.kind, usual, board.tell)
    window = config.monitoring.window
    max_age = timedelta(hours=window.max_age_hours) if window.max_age_hours else None
    replays = []
    for place, policy in enumerate(options.policies):
        replay = Replay(timeline, policy, config.retraining, cuts, window.max_rows, workshop, max_age)
        for done, step in enumerate(replay.run(workshop.gold), start=1):
            told = f"{policy}: {step.until:%Y-%m-%d}, version {step.version}, {step.action}"
            board.move((place + done / (len(cuts) - 1)) / len(options.policies), told)
        logger.info("backtest of %s: %s replayed", config.name, policy)
        replays.append(replay)
    record = {
        "loop": config.name,
        "model": options.kind,
        "begin": timeline.begin.isoformat(),
        "end": cuts[-1].isoformat(),
        "step_days": options.step_days,
        "stock": int(timeline.is_stock.sum()),
        "texts": int((~timeline.is_stock).sum()),
        "labelled": int((~timeline.is_stock & timeline.rows["label"].notna().to_numpy()).sum()),
        "cost": "median of the loop's retrains" if workshop.costs_are_usual else "seconds of these trainings",
        "policies": summarise_policies(replays, timeline.rows["group"].tolist()),
    }
    return _write_page(config, settings, f"backtest-{key}", record)


def gather_timeline(config: Loop, config_dir: Path, settings: Settings, options: Options) -> Timeline:
    """Return the labelled rows of all sources and of feedback, and the answered texts of the log without a label."""
    raw = gather_rows(config, config_dir, settings, SnapshotStore(settings.snapshots))
    labelled = screen(raw, config.data, config.labels).rows
    window = PredictionLog(open_database(settings.database)).read_window(config.name, max_rows=MAX_LOGGED)
    logged = window.assign(row_id=PREFIX + window["prediction_id"].astype("str"))
    came_back = {row[0]: row[1:] for row in logged[["row_id", "gold_at", "picked"]].itertuples(index=False, name=None)}
    delayed = labelled["observed_at"] + timedelta(days=options.label_delay_days)
    # Every row of a source has its label: no choice was made, so it counts as one drawn by chance. Of feedback older
    # than the newest MAX_LOGGED it is not known how it came.
    came = [
        came_back.get(row_id, (at, GIVEN if row_id.startswith(PREFIX) else "audit"))
        for row_id, at in zip(labelled["row_id"], delayed, strict=True)
    ]
    sources = labelled.assign(
        at=labelled["observed_at"],
        known_at=pd.Series([at for at, _ in came], index=labelled.index, dtype=TIME),
        picked=[picked or GIVEN for _, picked in came],
        key_id="history",
    )
    others = logged[~logged["row_id"].isin(set(labelled["row_id"]))]
    others = others.assign(
        label=None, split="", known_at=pd.Series(pd.NaT, index=others.index, dtype=TIME), picked=None
    )
    rows = pd.concat([frame[COLUMNS].astype({"label": object, "picked": object}) for frame in (sources, others)])
    rows = rows.sort_values(["at", "row_id"], kind="stable", na_position="first", ignore_index=True)
    return Timeline(rows, options.start or find_begin(config.name, rows))


def find_begin(loop: str, rows: pd.DataFrame) -> datetime:
    """Return when a replay begins: at the first dated row where undated ones suffice, else after a quarter of labels.

    Raises DataError where nothing is dated.
    """
    labelled = rows["label"].notna()
    dated = rows["at"].notna()
    if not dated.any():
        raise DataError(
            f"backtest: no row of '{loop}' has a time. Name the column of times in data.sources (columns.observed_at), "
            "or wait for predictions that labels come back for"
        )
    if int((labelled & ~dated).sum()) >= MIN_STOCK or not (labelled & dated).any():
        return _as_datetime(rows.loc[dated, "at"].min())
    known = rows.loc[labelled & dated, "at"].sort_values(ignore_index=True)
    return _as_datetime(known.iloc[int(len(known) * STOCK_SHARE)])


def plan_steps(timeline: Timeline, step_days: float) -> list[datetime]:
    """Return the times that bound the steps; raises DataError where the history is too short or the steps too many."""
    newest = timeline.rows["at"].max()
    end = _as_datetime(newest) + timedelta(microseconds=1) if pd.notna(newest) else timeline.begin
    days = (end - timeline.begin).total_seconds() / 86_400
    num_steps = round(days / step_days)
    if num_steps < 2 or num_steps > MAX_STEPS:
        raise DataError(
            f"backtest: {days:.2f} days from {timeline.begin:%Y-%m-%d %H:%M} UTC make {num_steps} steps of "
            f"{step_days:g} days; 2 to {MAX_STEPS} are possible (--step-days, --start)"
        )
    return cut_steps(timeline.begin, end, num_steps)


def _name_timeline(config: Loop, timeline: Timeline) -> str:
    """Return a hash of all that a model of a backtest hangs on."""
    columns = timeline.rows[["row_id", "text", "label", "group", "split", "at", "known_at", "picked"]]
    rows = columns.astype("str").to_numpy().tolist()
    recipe = config.training.model_dump(mode="json")
    return digest([rows, config.labels, recipe, code_version(), timeline.begin.isoformat()])


def _write_page(config: Loop, settings: Settings, report_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """Write the page beside the monitoring reports, where the service shows it, and name it in the record."""
    path = settings.root / "reports" / config.name / f"{report_id}.html"
    record |= {"page": f"{settings.api}/reports/{config.name}/{report_id}", "file": str(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    rules = config.retraining.model_dump(mode="json")
    path.write_text(render_backtest_page(record, rules, datetime.now(UTC)), encoding="utf-8")
    return record


def _as_datetime(at: pd.Timestamp) -> datetime:
    moment: datetime = at.to_pydatetime()
    return moment.astimezone(UTC)
