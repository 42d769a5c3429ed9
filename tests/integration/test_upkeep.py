"""What is past its time goes, and nothing else."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from configs.load import find_loop
from configs.settings import Settings
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tasks.upkeep import delete_checkpoints, delete_older, delete_reports, purge_predictions
from tests.support.monitored import make_predictions, make_texts
from tests.support.toy_loop import write_toy_loop

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))


def age(path: Path, days: float) -> None:
    then = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (then, then))


def test_predictions_beyond_retention_go_and_other_loops_stay(tmp_path: Path) -> None:
    write_toy_loop(tmp_path / "loops")
    toy = find_loop("toy", tmp_path / "loops", ["serving.retention_days=10"])
    log = PredictionLog(open_database(Settings().database))
    old = NOW - timedelta(days=11)
    log.append(make_predictions(make_texts(3), seed=1, start=old))
    log.append(make_predictions(make_texts(2), seed=2, start=NOW - timedelta(days=9)))
    log.append(make_predictions(make_texts(4), seed=3, start=old, loop="other"))
    assert purge_predictions.fn(toy) == 3
    assert len(log.read_window("toy", max_rows=10)) == 2
    assert len(log.read_window("other", max_rows=10)) == 4


def test_a_folder_is_as_old_as_its_newest_file(tmp_path: Path) -> None:
    for name, days in (("stale", 8.0), ("resumed", 1.0)):
        folder = tmp_path / "home" / "checkpoints" / "toy" / name
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").touch()
        age(folder / "weights.safetensors", days)
        age(folder, 8.0)
    assert delete_checkpoints.fn() == 1
    assert [path.name for path in (tmp_path / "home" / "checkpoints" / "toy").iterdir()] == ["resumed"]


def test_runs_on_the_disk_that_a_cluster_shares_go_and_what_others_keep_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERTUNE_RAY_STORAGE", str(tmp_path / "shared"))
    for name in ("0123456789abcdef01234567", "tuning-0123456789ab", "photographs"):
        folder = tmp_path / "shared" / "toy" / name
        folder.mkdir(parents=True)
        age(folder, 8.0)
    assert delete_checkpoints.fn() == 2
    assert [path.name for path in (tmp_path / "shared" / "toy").iterdir()] == ["photographs"]


def test_a_file_that_a_running_retrain_takes_away_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / "checkpoints" / "toy" / "busy"
    folder.mkdir(parents=True)
    age(folder, 8.0)
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: [*listed(path, pattern), path / "checkpoint-7"])
    assert delete_checkpoints.fn() == 0
    monkeypatch.undo()
    assert folder.is_dir()


def test_old_reports_go(tmp_path: Path) -> None:
    write_toy_loop(tmp_path / "loops")
    toy = find_loop("toy", tmp_path / "loops", ["serving.retention_days=10"])
    folder = tmp_path / "home" / "reports" / "toy"
    folder.mkdir(parents=True)
    for name, days in (("old.html", 11.0), ("new.html", 9.0)):
        (folder / name).touch()
        age(folder / name, days)
    assert delete_reports.fn(toy) == 1
    assert [path.name for path in folder.iterdir()] == ["new.html"]


def test_a_missing_folder_has_nothing_old(tmp_path: Path) -> None:
    assert delete_older(tmp_path / "nowhere", NOW) == 0


def test_labelled_predictions_have_a_time_of_their_own(tmp_path: Path) -> None:
    write_toy_loop(tmp_path / "loops")
    log = PredictionLog(open_database(Settings().database))
    rows = make_predictions(make_texts(3), seed=1, start=NOW - timedelta(days=50))
    log.append(rows)
    log.record_feedback(rows[0].prediction_id, "positive", "ana", NOW, rows[0].key_id)
    days = ["serving.retention_days=10", "data.feedback_retention_days=100"]
    assert purge_predictions.fn(find_loop("toy", tmp_path / "loops", days)) == 2
    assert len(log.labelled_rows("toy")) == 1
    assert purge_predictions.fn(find_loop("toy", tmp_path / "loops", [days[0]])) == 0
    days[1] = "data.feedback_retention_days=20"
    assert purge_predictions.fn(find_loop("toy", tmp_path / "loops", days)) == 1
    assert len(log.labelled_rows("toy")) == 0
