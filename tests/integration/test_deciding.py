"""What the decision is told: erasures, refusals and budgets as the stores keep them, and rows that a schedule finds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from configs.load import find_loop
from configs.schema import Loop
from configs.settings import Settings
from tasks.core.retrain_plan import code_version, recipe_key
from tasks.core.screening import screen
from tasks.core.verdict import Verdict
from tasks.core.window_check import WindowCheck
from tasks.deciding import decide_retraining, weigh_schedule
from tasks.monitoring import Champion, CheckedWindow
from tasks.stores.database import open_database
from tasks.stores.erasures import Erasures
from tasks.stores.ledger import Ledger, RetrainRow
from tasks.stores.model_registry import ModelVersion
from tasks.stores.retrain_past import find_marked_versions
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.stores.sources import load_rows
from tasks.training import TrainingPlan
from tests.support.monitored import make_reference
from tests.support.toy_loop import write_toy_loop

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
FIRST, SECOND = "00112233445566aa", "00112233445566bb"


@dataclass
class TagRegistry:
    """Knows the tags of versions; version 1 is champion."""

    tags: dict[str, dict[str, str]] = field(default_factory=lambda: {"1": {"snapshot": FIRST}})

    def find(self, loop: str, alias: str) -> ModelVersion:
        return ModelVersion(loop, "1", "run-1", "models:/m-1")

    def tags_by_version(self, loop: str) -> dict[str, dict[str, str]]:
        return self.tags


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    write_toy_loop(tmp_path / "loops", 60)
    return find_loop("toy", tmp_path / "loops", ["retraining.budget_hours=1", "retraining.schedule_min_new_rows=5"])


@pytest.fixture
def registry(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> Iterator[TagRegistry]:
    registry = TagRegistry()
    monkeypatch.setattr("tasks.deciding.open_registry", lambda _settings: registry)
    with disable_run_logger():
        yield registry


def ledger() -> Ledger:
    return Ledger(open_database(Settings().database))


def erasures() -> Erasures:
    return Erasures(open_database(Settings().database))


def append(version: str | None, at: datetime, **record: Any) -> None:
    status: Any = "trained" if version else "skipped"
    ledger().append_retrain(RetrainRow(f"{version}-{at}", at, "toy", "drift", status, version, record))


def decide(loop: Loop, tmp_path: Path, verdict: Any = "ok") -> Any:
    make_reference().to_parquet(tmp_path / "reference.parquet")
    champion = Champion(ModelVersion("toy", "1", "run-1", "models:/m-1"), "base", tmp_path / "reference.parquet")
    found = WindowCheck(NOW, "1", 90, 30, None, NOW, True, Verdict(verdict, "words"), (), (), None, None)
    frame = make_reference(3)
    return decide_retraining.fn(loop, champion, CheckedWindow("r1", found, [], frame, frame))


def test_a_champion_that_learnt_erased_rows_is_retrained_and_then_spoken_of(
    loop: Loop, registry: TagRegistry, tmp_path: Path
) -> None:
    assert decide(loop, tmp_path).trigger is None
    erasures().mark("toy", {SECOND: ["train"]}, NOW - timedelta(days=2))
    assert decide(loop, tmp_path).trigger is None  # another snapshot than the champion's
    erasures().mark("toy", {FIRST: ["test"]}, NOW - timedelta(days=1))
    decision = decide(loop, tmp_path)
    assert (decision.action, decision.trigger) == ("retrain", "erasure")
    assert decision.facts["erased_at"] == (NOW - timedelta(days=1)).isoformat()
    append("2", NOW - timedelta(hours=9), released="not promoted")
    after = decide(loop, tmp_path)
    assert (after.action, after.trigger) == ("wait", None)
    assert "a retrain without them did not win" in after.reason


def test_an_erasure_reaches_those_who_went_on_from_who_learnt_it(
    loop: Loop, registry: TagRegistry, tmp_path: Path
) -> None:
    registry.tags = {"0": {"snapshot": FIRST}, "1": {"snapshot": SECOND, "started_from": "0"}}
    erasures().mark("toy", {FIRST: ["train"]}, NOW - timedelta(days=1))
    assert decide(loop, tmp_path).trigger == "erasure"
    rows = [
        RetrainRow("a", NOW, "toy", "drift", "trained", "0", {"snapshot": {"fingerprint": FIRST}}),
        RetrainRow(
            "b", NOW, "toy", "drift", "trained", "1", {"snapshot": {"fingerprint": SECOND}, "started_from": "0"}
        ),
        RetrainRow("c", NOW, "toy", "drift", "trained", "2", {"snapshot": {"fingerprint": SECOND}}),
        RetrainRow("d", NOW, "toy", "drift", "skipped", None, {}),
    ]
    assert set(find_marked_versions(rows, {FIRST: NOW})) == {"0", "1"}


def test_refusals_and_budget_are_read_from_ledger_and_audit_log(
    loop: Loop, registry: TagRegistry, tmp_path: Path
) -> None:
    for version, hours_ago in (("2", 60), ("3", 50), ("4", 40)):
        append(version, NOW - timedelta(hours=hours_ago), released="staged", seconds={"total": 900.0})
    ledger().append_audit("toy", "refuse", "service", "slow", "1", "4", NOW)
    ledger().append_audit("toy", "refuse", "eve", "no", "1", "3", NOW)
    facts = decide(loop, tmp_path, "drift").facts
    assert (facts["refused_in_a_row"], facts["needed_labels"], facts["spent_hours"]) == (2, 20, 0.75)
    ledger().append_audit("toy", "refuse", "eve", "no", "1", "2", NOW)
    assert decide(loop, tmp_path, "drift").facts["needed_labels"] == 60


def write_snapshot(loop: Loop, fingerprint: str, num_rows: int, tmp_path: Path) -> Snapshot:
    rows = load_rows(loop, tmp_path / "loops", Settings().root)
    found = screen(rows, loop.data, loop.labels)
    kept = type(found)(found.rows.head(num_rows), found.quarantine, found.results, found.n_raw, 0, 0, [])
    return SnapshotStore(Settings().snapshots).write(loop, fingerprint, kept, "<p></p>", NOW)


def test_a_scheduled_retrain_waits_for_rows_and_is_not_taken_for_one_that_saw_them(
    loop: Loop, registry: TagRegistry, tmp_path: Path
) -> None:
    write_snapshot(loop, FIRST, 50, tmp_path)
    today = write_snapshot(loop, SECOND, 54, tmp_path)
    registry.tags["1"]["recipe_key"] = recipe_key(loop.training, code_version(), loop.unknown)
    plan = TrainingPlan("key", None)
    held = weigh_schedule.fn(loop, today, plan, "schedule")
    assert (held.is_postponed, held.why_not) == (
        True, "only 4 of 5 rows that are new, mended or gone since the last training",
    )  # fmt: skip
    assert weigh_schedule.fn(loop, today, plan, "person") is plan
    assert (
        weigh_schedule.fn(loop, today, TrainingPlan("key", "those of the champion"), "schedule").is_postponed is False
    )
    more = find_loop("toy", tmp_path / "loops", ["retraining.schedule_min_new_rows=4"])
    assert weigh_schedule.fn(more, today, plan, "schedule") is plan
    registry.tags["1"]["recipe_key"] = "another recipe"
    assert weigh_schedule.fn(loop, today, plan, "schedule") is plan
    erasures().mark("toy", {FIRST: ["train"]}, NOW)
    registry.tags["1"]["recipe_key"] = recipe_key(loop.training, code_version(), loop.unknown)
    assert weigh_schedule.fn(loop, today, plan, "schedule") is plan


def test_an_erasure_is_marked_before_anything_is_deleted(loop: Loop, tmp_path: Path) -> None:
    snapshot = write_snapshot(loop, FIRST, 50, tmp_path)
    store = SnapshotStore(Settings().snapshots)
    train = store.read_split(snapshot, "train")["row_id"].iloc[0]

    def fail(splits: dict[str, list[str]]) -> None:
        assert splits == {FIRST: ["train"]}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.erase_rows("toy", {train}, before=fail)
    assert store.find("toy", FIRST) is not None
