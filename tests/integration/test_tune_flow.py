"""The search with every real part: snapshot, trials in processes, Optuna's file, MLflow, the loop's YAML."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.testing.utilities import prefect_test_harness

from configs.load import ConfigError, load_loop
from configs.schema import Training
from configs.settings import Settings
from flows.tune import TuneChanges, tune
from tasks.core.errors import DataError
from tasks.core.search_report import describe_search
from tasks.core.trials import Job, TrialFailedError
from tasks.lanes import open_lanes
from tasks.stores.model_registry import open_registry
from tasks.tuning import only_tuning
from tests.support.ports import free_port
from tests.support.tiny_base import make_rows, write_tiny_base
from tests.support.toy_loop import write_toy_loop

SPACE = {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}, "batch_size": {"choices": [8, 16]}}


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def loop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without servers, and a loop whose recipe learns next to nothing."""
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    for server in ("MLFLOW", "API", "PREFECT"):
        monkeypatch.setenv(f"EVERTUNE_{server}_PORT", str(free_port()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write_toy_loop(tmp_path / "loops", tuning={"trials": 3, "space": SPACE})
    text = path.read_text(encoding="utf-8").replace("epochs: 10", "epochs: 2  # quick")
    path.write_text(text.replace("learning_rate: 0.003", "learning_rate: 1.0e-06", 1), encoding="utf-8")
    return path


def test_a_search_goes_on_in_two_processes_and_writes_what_is_better(
    loop_file: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loop_file.read_text(encoding="utf-8")
    home = Settings().root
    begun = tune("toy", TuneChanges(trials=1), write=True)
    assert (begun["reason"], begun["written"], begun["diff"]) == ("today's recipe is the best of 1 trials", False, "")
    monkeypatch.setenv("EVERTUNE_TUNING_PROCESSES", "2")
    found = tune("toy", TuneChanges(trials=3), write=True)
    assert (found["study"], found["training_run"]) == (begun["study"], begun["training_run"])
    assert found["trials"][0] == begun["trials"][0]
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3
    assert found["trials"][0]["today"]
    assert found["trials"][0]["value"] == found["today"]
    assert found["best"]["macro_f1"] > found["today"] + 0.1
    assert found["written"], found["reason"]
    assert found["validation_rows"] == found["gain"]["n_rows"] > 30

    after = loop_file.read_text(encoding="utf-8")
    assert "epochs: 2  # quick" in after
    assert [line for line in before.splitlines() if line not in after.splitlines()] == ["  learning_rate: 1.0e-06"]
    training = load_loop(loop_file).training
    assert {key: getattr(training, key) for key in found["best"]["changes"]} == found["best"]["changes"]
    assert not list((home / "checkpoints" / "toy").glob("*"))
    assert not list((home / "tuning").glob("*.json"))

    client = mlflow.MlflowClient(Settings().mlflow_store)
    experiment = client.get_experiment_by_name("toy")
    runs = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{found['training_run']}'")
    assert sorted(run.info.run_name for run in runs) == ["today", "trial 1", "trial 2"]
    kept = {file.path for file in client.list_artifacts(found["training_run"], "search")}
    assert kept == {f"search/{name}" for name in ("best.diff", "curves.png", "history.png", "keys.png", "search.md")}
    with get_client(sync_client=True) as prefect:
        named = ArtifactFilter(key=ArtifactFilterKey(any_=["toy-tuning"]))
        page = str(prefect.read_artifacts(artifact_filter=named, sort=ArtifactSort.UPDATED_DESC)[0].data)
    assert "```diff" in page
    assert "test rows were not read" in page
    lines = describe_search(found)
    assert lines[-1] == f"written into {loop_file}; next: evertune retrain toy"
    assert any(re.match(r"\d +0\.\d{4} .*learning_rate", line) for line in lines)


def test_what_is_meant_for_one_run_is_not_written(loop_file: Path, prefect_server: None) -> None:
    with pytest.raises(ConfigError, match=r"--write with --set training.epochs=1: what --set changes is meant for one"):
        tune("toy", TuneChanges(set=["tuning.seeds=2", "training.epochs=1"]), write=True)


def test_two_searches_of_one_loop_do_not_meet(loop_file: Path) -> None:
    with only_tuning("toy"), pytest.raises(DataError, match="another search for 'toy' runs"), only_tuning("toy"):
        pass


def test_data_that_cannot_be_trained_on_ends_the_search_with_the_reason(loop_file: Path, prefect_server: None) -> None:
    changes = TuneChanges(trials=9, set=["training.base_model=package:no-such-model"])
    with pytest.raises(DataError, match=r"3 trials in a row failed.*'no-such-model' is not installed") as error:
        tune("toy", changes)
    assert "The trials are kept" in str(error.value)
    runs = open_registry(Settings())._client.search_runs(["1"], "tags.kind = 'tuning'")
    assert [run.info.status for run in runs] == ["FAILED"]


def test_a_worker_that_dies_fails_its_trial_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERTUNE_TUNING_PROCESSES", "2")
    job = make_job(tmp_path)
    with open_lanes(Settings(), tmp_path) as lanes:
        lane = lanes[0].__self__  # type: ignore[attr-defined]  # the only way to the process that is to die
        os.kill(lane._start().pid, signal.SIGKILL)
        with pytest.raises(TrialFailedError, match="its process was killed by signal 9; was memory short"):
            lanes[0](job, lambda report: True)
        outcome = lanes[0](job, lambda report: True)
    assert len(outcome.predicted[0]) == 30
    assert 0 <= outcome.value <= 1
    kept = json.loads((tmp_path / "trial" / "seed-0.json").read_text(encoding="utf-8"))
    assert kept["macro_f1"] == outcome.value


def make_job(folder: Path) -> Job:
    make_rows(60).to_parquet(folder / "train.parquet")
    make_rows(30, seed=1).to_parquet(folder / "validation.parquet")
    base = str(write_tiny_base(folder / "base"))
    training = Training(base_model=base, epochs=1, precision="fp32", learning_rate=3e-3)
    places = {name: str(folder / f"{name}.parquet") for name in ("train", "validation")}
    return Job(0, training, base, ("negative", "positive"), 1, **places, folder=str(folder / "trial"))
