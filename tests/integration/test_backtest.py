"""`evertune backtest` on real stores and a real, tiny encoder: dated rows of a source and labels that came back."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from configs.load import find_loop
from configs.settings import Settings
from infra.cli import main
from tasks.backtest import Options, Progress, backtest, gather_timeline
from tasks.backtest_tools import Workshop
from tasks.core.errors import DataError
from tasks.stores.backtest_files import BacktestFiles, digest
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger, RetrainRow
from tasks.stores.prediction_log import PredictionLog
from tests.support.monitored import make_predictions
from tests.support.toy_loop import write_toy_loop

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NUM_ROWS, DAYS = 320, 8
DATED = {"row_id": "row_id", "group": "group", "rating": "rating", "observed_at": "seen"}
OPTIONS = Options(policies=("never", "nightly", "ours"))


@pytest.fixture
def loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    monkeypatch.setenv("EVERTUNE_API_URL", "http://api.test")
    path = write_toy_loop(tmp_path / "loops", NUM_ROWS)
    loop = yaml.safe_load(path.read_text(encoding="utf-8"))
    loop["data"]["sources"][0]["columns"] = DATED
    loop["gate"] |= {"min_macro_f1": 0.01, "min_test_rows": 5, "max_ece": None, "resamples": 200}
    path.write_text(yaml.safe_dump(loop), encoding="utf-8")
    rows = pd.read_csv(path.parent / "reviews.csv")
    seen = [BEGIN + timedelta(days=DAYS * place / NUM_ROWS) for place in range(NUM_ROWS)]
    rows.assign(seen=[at.isoformat() for at in seen]).to_csv(path.parent / "reviews.csv", index=False)
    return path.parent


def run(loops: Path, options: Options = OPTIONS, **changes: Any) -> tuple[dict[str, Any], list[Progress]]:
    told: list[Progress] = []
    settings = [f"{name}={value}" for name, value in changes.items()]
    config = find_loop("toy", loops, [one.replace("__", ".") for one in settings])
    return backtest(config, loops, Settings(), options, told.append), told


def policies(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["policy"]: each for each in record["policies"]}


def test_a_history_is_replayed_and_what_was_done_is_not_done_again(
    loops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, told = run(loops)
    found = policies(record)
    assert (found["never"]["retrains"], found["nightly"]["retrains"]) == (0, 6)  # 8 days, a quarter of them the stock
    assert found["nightly"]["accuracy"] is not None
    assert {each["n"] for each in record["policies"]} == {record["labelled"]}
    assert [told[0].share, told[-1].share] == [0.0, 1.0]
    page = Path(record["file"]).read_text(encoding="utf-8")
    assert record["page"].startswith("http://api.test/reports/toy/backtest-")
    assert page.count("<polyline") == 3
    assert "n17" not in page  # a word of the texts

    def no_work(*_: Any) -> Any:
        raise AssertionError("this was done before")

    monkeypatch.setattr(Workshop, "_fit", no_work)
    monkeypatch.setattr(Workshop, "_check", no_work)
    monkeypatch.setattr(Workshop, "_ask_gate", no_work)
    again, _ = run(loops)
    assert again["policies"] == record["policies"]


def test_other_rules_reuse_what_was_trained(loops: Path) -> None:
    run(loops, Options(policies=("nightly",)))
    models = sorted(Settings().root.glob("backtests/toy/*/models/*.npy"))
    record, _ = run(loops, Options(policies=("ours",)), retraining__min_new_labels=1, retraining__labels_alone=1)
    assert policies(record)["ours"]["retrains"] >= 4
    assert sorted(Settings().root.glob("backtests/toy/*/models/*.npy")) == models


def test_labels_that_came_back_know_when_they_came(loops: Path) -> None:
    log = PredictionLog(open_database(Settings().database))
    start = BEGIN + timedelta(days=3)
    answered = make_predictions([f"the phone is great x{place}" for place in range(6)], start=start)
    log.append(answered)
    came = BEGIN + timedelta(days=6)
    for one in answered[:5]:
        log.record_feedback(one.prediction_id, "positive", "ana", came, "key")
    config = find_loop("toy", loops, [])
    rows = gather_timeline(config, loops, Settings(), Options(label_delay_days=2)).rows.set_index("row_id")
    logged = rows[rows.index.str.startswith("feedback:")]
    assert len(logged) == 6
    labelled = logged[logged["label"].notna()]
    assert set(labelled["known_at"]) == {pd.Timestamp(came)}  # test rows wait for a reviewer
    assert set(labelled["picked"]) == {"given"}
    assert logged["at"].min() == pd.Timestamp(start)
    sources = rows[~rows.index.str.startswith("feedback:")]
    assert set(sources["known_at"] - sources["at"]) == {pd.Timedelta(days=2)}


def test_feedback_older_than_the_log_that_is_read_was_not_drawn_by_chance(
    loops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.backtest.MAX_LOGGED", 1)
    log = PredictionLog(open_database(Settings().database))
    answered = make_predictions([f"the phone is great x{place}" for place in range(6)], start=BEGIN)
    log.append(answered)
    for one in answered:
        log.record_feedback(one.prediction_id, "positive", "ana", BEGIN + timedelta(days=1), "key")
    rows = gather_timeline(find_loop("toy", loops, []), loops, Settings(), Options()).rows
    labelled = rows[rows["row_id"].str.startswith("feedback:") & rows["label"].notna()]
    assert len(labelled) > 1
    assert set(labelled["picked"]) == {"given"}


def test_a_retrain_costs_what_the_ledger_says(loops: Path) -> None:
    row = RetrainRow("r", datetime.now(UTC), "toy", "person", "trained", "1", {"seconds": {"total": 1800.0}})
    Ledger(open_database(Settings().database)).append_retrain(row)
    record, _ = run(loops, Options(policies=("nightly",)))
    assert (record["cost"], policies(record)["nightly"]["hours"]) == ("median of the loop's retrains", 3.0)


def test_a_history_that_does_not_suffice_is_told(loops: Path) -> None:
    with pytest.raises(DataError, match=r"make 0 steps of 100 days; 2 to 2000 are possible \(--step-days, --start\)"):
        run(loops, Options(step_days=100))
    rows = pd.read_csv(loops / "reviews.csv")
    rows.assign(seen="").to_csv(loops / "reviews.csv", index=False)
    with pytest.raises(DataError, match=r"no row of 'toy' has a time. Name the column of times in data.sources"):
        run(loops)


def test_the_loops_own_recipe_trains_and_answers(loops: Path) -> None:
    options = Options(kind="recipe", step_days=3, policies=("nightly",))
    record, _ = run(loops, options, training__epochs=1)
    assert record["cost"] == "seconds of these trainings"
    assert policies(record)["nightly"]["accuracy"] is not None
    assert policies(record)["nightly"]["hours"] > 0
    assert {path.name.split("-")[0] for path in Settings().root.glob("backtests/toy/*/models/*.npy")} == {"recipe"}


def test_the_command_prints_one_object(
    loops: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evertune", "backtest", "toy", "--policy", "never", "--step-days", "3", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == 0
    assert [each["policy"] for each in json.loads(captured.out)["policies"]] == ["never"]
    assert "never" in captured.err
    monkeypatch.setattr(sys, "argv", [*words[:3], "--policy", "sometimes"])
    with pytest.raises(SystemExit):
        main()
    assert "--policy sometimes: accepted: never, nightly, drift only, ours" in capsys.readouterr().err


def test_a_note_cut_short_by_a_kill_is_made_again(tmp_path: Path) -> None:
    files = BacktestFiles(tmp_path)
    assert files.note("gate", {"a": 1}, lambda: [True, "fine"]) == [True, "fine"]
    with (tmp_path / "notes.jsonl").open("a", encoding="utf-8") as file:
        file.write('["gate x", [tr')
    again = BacktestFiles(tmp_path)
    assert again.note("gate", {"a": 1}, lambda: None) == [True, "fine"]
    assert again.note("gate", {"a": 2}, lambda: "new") == "new"
    assert BacktestFiles(tmp_path).note("gate", {"a": 2}, lambda: None) == "new"
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
