"""Rows with planted wrong labels are found by real folds, shown, exported, mended and taken back."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.load import load_loop
from configs.schema import Loop
from configs.settings import Settings
from infra.cli import main
from tasks.core.errors import DataError
from tasks.core.label_noise import judge_out_of_fold
from tasks.core.screening import screen
from tasks.stores.quarantine import Replay, replay_quarantine
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.stores.sources import load_rows
from tasks.suspects import find_loop_suspects
from tests.support.toy_loop import write_toy_loop

FINGERPRINT = "00112233445566aa"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop whose csv has wrong labels in 20 rows, those of `wrong.json`."""
    folder = tmp_path_factory.mktemp("loops")
    training = {
        "base_model": str(folder / "tiny-base"),
        "epochs": 20,
        "learning_rate": 3e-3,
        "head_learning_rate": 1e-2,
        "precision": "fp32",
        "label_noise": {"folds": 3, "suspect_weight": 0.0},
    }
    path = write_toy_loop(folder, training=training)
    rows = pd.read_csv(folder / "reviews.csv", dtype={"row_id": "str"})
    wrong = np.random.default_rng(5).choice(len(rows), 20, replace=False)
    rows.loc[wrong, "label"] = rows.loc[wrong, "label"].map({"positive": "negative", "negative": "positive"})
    rows["rating"] = None
    rows.to_csv(folder / "reviews.csv", index=False)
    (folder / "wrong.json").write_text(json.dumps([f"reviews:{row}" for row in rows.loc[wrong, "row_id"]]))
    return path


@pytest.fixture(scope="module")
def kept(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Snapshot, Settings]]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERTUNE_HOME", str(home))
        patch.setenv("EVERTUNE_LOOPS_DIR", str(place.parent))
        patch.setattr("tasks.core.label_noise.EPOCHS", 20.0)  # the tiny encoder knows nothing before its first step
        settings, loop = Settings(), load_loop(place)
        screened = screen(load_rows(loop, place.parent, home), loop.data, loop.labels)
        now = pd.Timestamp("2026-05-04T12:00:00Z").to_pydatetime()
        yield loop, SnapshotStore(settings.snapshots).write(loop, FINGERPRINT, screened, "<p>page</p>", now), settings


def test_wrong_labels_are_found_once_and_shown(place: Path, kept: tuple[Loop, Snapshot, Settings]) -> None:
    loop, snapshot, settings = kept
    store = SnapshotStore(settings.snapshots)
    train = store.read_split(snapshot, "train")
    found = find_loop_suspects(loop, snapshot, settings)
    wrong = set(json.loads((place.parent / "wrong.json").read_text())) & set(train["row_id"])
    hits = len(wrong & set(found["row_id"]))
    assert len(wrong) >= 5
    assert hits >= 0.7 * len(wrong)
    assert hits >= 0.25 * len(found)  # by chance: 0.04
    assert found["score"].is_monotonic_increasing
    assert (found["suggested"] != found["label"]).all()
    page = store.read_page("toy", FINGERPRINT, "suspects")
    assert page is not None
    assert all(row in page for row in found["row_id"])
    assert "evertune quarantine toy --replay" in page
    before = store.read_suspects(snapshot)
    pd.testing.assert_frame_equal(find_loop_suspects(loop, snapshot, settings), found)
    assert before is not None
    assert store.read_suspects(snapshot, "another recipe") is None  # so it would be sought afresh


def test_the_csv_goes_back_through_the_mend_door(
    kept: tuple[Loop, Snapshot, Settings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, _, settings = kept
    file = tmp_path / "suspects.csv"
    monkeypatch.setattr(sys, "argv", ["evertune", "suspects", "toy", "--csv", str(file), "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    told = json.loads(capsys.readouterr().out)
    with file.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    assert [row["row_id"] for row in rows] == [row["row_id"] for row in told["rows"]]
    assert told["page"].endswith(f"/suspects/toy/{FINGERPRINT}")
    rows[0]["label"] = rows[0]["suggested"]
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert replay_quarantine(SnapshotStore(settings.snapshots), loop, file) == Replay(1, len(rows) - 1)
    mended = SnapshotStore(settings.snapshots).read_mended("toy")
    assert mended[["row_id", "label"]].to_numpy().tolist() == [[rows[0]["row_id"], rows[0]["suggested"]]]


def test_too_few_groups_are_told() -> None:
    rows = pd.DataFrame({"label": ["a", "a", "b"], "group": ["1", "2", "3"], "text": ["x", "y", "z"]})
    with pytest.raises(DataError, match="3 folds need as many groups, and two of every label"):
        judge_out_of_fold(rows, ["a", "b"], 3, 1, lambda known, judged: np.zeros((len(judged), 2)))
