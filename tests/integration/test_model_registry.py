"""A real MLflow store on SQLite, and a server that is not there."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest

from configs.settings import Settings
from tasks.core.errors import DataError, TransientError
from tasks.core.predictor import Predictor
from tasks.core.slices import SliceScores
from tasks.registry import _slice_metrics
from tasks.stores.model_registry import ModelRegistry, ModelVersion, open_registry
from tests.support.ports import free_port
from tests.support.tiny_bundle import write_tiny_bundle

LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def registry(home: Path) -> ModelRegistry:
    return open_registry(Settings(home=home, mlflow_port=free_port()))


@pytest.fixture(scope="module")
def version(registry: ModelRegistry, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    folder = tmp_path_factory.mktemp("made")
    for part in ("checkpoint", "evidence"):
        (folder / part).mkdir()
    (folder / "checkpoint" / "classifier.json").write_text("{}", encoding="utf-8")
    pd.DataFrame({"row_id": ["1"], "score": [0.9]}).to_parquet(folder / "evidence" / "reference.parquet")
    write_tiny_bundle(folder / "bundle", labels=LABELS)
    run_id = registry.start_run("toy", "toy run", {"training.epochs": 1}, {"training_key": "k"})
    registry.log_dataset(run_id, "toy", "f" * 64, "/snapshots/toy", {"train": 3})
    registry.log_metrics(run_id, {"loss": 0.5}, 10, 1_700_000_000_000)
    folders = {part: folder / part for part in ("bundle", "checkpoint", "evidence")}
    made = registry.register("toy", run_id, folders, LABELS, "# a card", {"training_key": "k"})
    registry.finish_run(run_id)
    return made


def test_no_model_is_no_champion(registry: ModelRegistry) -> None:
    assert registry.find("nobody", "champion") is None
    assert registry.list_versions("nobody") == []
    with pytest.raises(DataError, match="could not look up nobody version 1"):
        registry.get("nobody", "1")


def test_an_alias_moves_and_is_found(registry: ModelRegistry, version: ModelVersion) -> None:
    assert registry.find("toy", "champion") is None
    registry.set_alias("toy", "champion", version.version)
    assert registry.find("toy", "champion") == version
    assert registry.list_versions("toy") == [version]
    with pytest.raises(DataError, match="could not move toy@champion to version 99"):
        registry.set_alias("toy", "champion", "99")


def test_a_version_carries_what_serves_judges_and_explains_it(
    registry: ModelRegistry, version: ModelVersion, tmp_path: Path
) -> None:
    bundle = registry.fetch_bundle(version, tmp_path)
    assert Predictor.load(bundle).largest_case_difference() < 1e-6
    assert registry.fetch_bundle(version, tmp_path) == bundle
    assert pd.read_parquet(registry.fetch_reference(version, tmp_path))["score"].tolist() == [0.9]
    described = registry.describe(version)
    assert described["tags"]["training_key"] == "k"
    assert described["metrics"]["loss"] == 0.5
    assert described["description"] == "# a card"


def test_a_slice_of_any_value_has_metrics_that_mlflow_takes(registry: ModelRegistry) -> None:
    values = ["a/../b", "$5\n=10%", "ü 漢 .", "", "x" * 5000 + "1", "x" * 5000 + "2"]
    slices = [SliceScores(f"price={value}", "", False, "", 9, 9, accuracy=0.5) for value in values]
    metrics = {name: value for one in slices for name, value in _slice_metrics(one).items()}
    assert len(metrics) == 2 * len(values)
    run_id = registry.start_run("toy", "slices", {}, {})
    registry.log_metrics(run_id, metrics, 0, 1_700_000_000_000)
    assert mlflow.MlflowClient(registry._uri).get_run(run_id).data.metrics == metrics


def test_plain_mlflow_loads_it_without_a_pickle(
    registry: ModelRegistry, version: ModelVersion, home: Path, tmp_path: Path
) -> None:
    suffixes = {path.suffix for path in (home / "mlflow" / "artifacts").rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin"}
    model = mlflow.pyfunc.load_model(version.model_uri)
    answers = model.predict(pd.DataFrame({"text": ["good", "bad"]}))
    assert list(answers.columns) == ["label", "score", "p_negative", "p_positive"]
    assert answers["score"].between(0.5, 1).all()
    expected = Predictor.load(registry.fetch_bundle(version, tmp_path)).predict(["good", "bad"]).probabilities
    assert answers[["p_negative", "p_positive"]].to_numpy() == pytest.approx(expected, abs=1e-6)


def test_an_unreachable_registry_is_an_error_never_no_champion(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TransientError, match=r"EVERTUNE_MLFLOW_URL\) does not answer"):
        open_registry(Settings(home=tmp_path, mlflow_url=url))
    with pytest.raises(TransientError, match="could not look up toy@champion"):
        ModelRegistry(url).find("toy", "champion")
