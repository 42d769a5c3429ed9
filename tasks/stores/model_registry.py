"""Model versions, their aliases and their evidence in MLflow; nothing else in the house knows how MLflow keeps them.

A version's files lie under its LoggedModel: `artifacts/bundle` (what is served), `artifacts/checkpoint` (safetensors
and tokenizer), `artifacts/evidence` (reference.parquet, gate.json, plots, hardest errors).
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from configs.settings import Settings
from tasks.core.errors import DataError, TransientError
from tasks.core.predictor import read_manifest

logger = logging.getLogger(__name__)
NOT_FOUND = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
PARAMS_AT_ONCE = 100  # that MLflow takes
SERVING_REQUIREMENTS = ["mlflow", "numpy", "onnxruntime", "pandas", "tokenizers"]
ENGINE_REQUIREMENTS = {"openvino-bf16": ["openvino"], "torch-cuda": ["safetensors", "torch", "transformers"]}
SERVING_MODULES = (
    "engines.py",
    "errors.py",
    "padding.py",
    "pooling.py",
    "predictor.py",
    "shared_weights.py",
    "torch_engine.py",
    "windows.py",
)


@dataclass(frozen=True)
class ModelVersion:
    """One version of a loop's registered model."""

    loop: str
    version: str
    run_id: str
    model_uri: str  # `models:/m-…`, the LoggedModel behind the version


class ModelRegistry:
    """Reads and writes one MLflow server or store."""

    def __init__(self, tracking_uri: str, artifacts: Path | None = None) -> None:
        """Open the registry; `artifacts` is where a store without a server keeps files."""
        self._uri = tracking_uri
        self._artifacts = artifacts
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def find(self, loop: str, alias: str) -> ModelVersion | None:
        """Return the version behind an alias; None only when there is no such model or alias.

        Raises TransientError when MLflow cannot be asked: that is never "no champion".
        """
        with _translated(f"look up {loop}@{alias}"):
            try:
                aliases = self._client.get_registered_model(loop).aliases
            except MlflowException as error:
                if error.error_code in NOT_FOUND:
                    return None
                raise
            return self.get(loop, str(aliases[alias])) if alias in aliases else None

    def get(self, loop: str, version: str) -> ModelVersion:
        """Return one version; raises DataError when there is none of that number."""
        with _translated(f"look up {loop} version {version}"):
            return _as_version(self._client.get_model_version(loop, version))

    def list_versions(self, loop: str) -> list[ModelVersion]:
        """Return all versions, newest first."""
        with _translated(f"list the versions of {loop}"):
            found = self._client.search_model_versions(f"name = '{loop}'", max_results=1000)
        return [_as_version(version) for version in sorted(found, key=lambda version: -int(version.version))]

    def tags_by_version(self, loop: str) -> dict[str, dict[str, str]]:
        """Return every version's tags, newest version first."""
        with _translated(f"list the versions of {loop}"):
            found = self._client.search_model_versions(f"name = '{loop}'", max_results=1000)
        return {str(one.version): dict(one.tags) for one in sorted(found, key=lambda one: -int(one.version))}

    def describe(self, version: ModelVersion) -> dict[str, Any]:
        """Return a version's tags, metrics, description and creation time (milliseconds since 1970)."""
        with _translated(f"describe {version.loop} version {version.version}"):
            found = self._client.get_model_version(version.loop, version.version)
            metrics = self._client.get_run(version.run_id).data.metrics
        return {
            "tags": dict(found.tags),
            "metrics": dict(metrics),
            "description": found.description or "",
            "created": found.creation_timestamp,
        }

    def set_alias(self, loop: str, alias: str, version: str) -> None:
        """Move an alias and read it back: MLflow has no compare-and-set, so callers hold a lock."""
        with _translated(f"move {loop}@{alias} to version {version}"):
            self._client.set_registered_model_alias(loop, alias, version)
            moved = str(self._client.get_registered_model(loop).aliases.get(alias))
        if moved != version:
            raise TransientError(f"{loop}@{alias} points to version {moved} after moving it to {version}")

    def delete_alias(self, loop: str, alias: str) -> None:
        """Take an alias away: the first version was refused, so nothing is champion again."""
        with _translated(f"delete {loop}@{alias}"):
            self._client.delete_registered_model_alias(loop, alias)

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with _translated(f"tag {version.loop} version {version.version}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(version.loop, version.version, key, value)

    def start_run(
        self, loop: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        """Open a training run in the loop's experiment, perhaps below another run, and return its id."""
        nested = {"mlflow.parentRunId": parent} if parent else {}
        with _translated(f"start a training run of {loop}"):
            run = self._client.create_run(self._experiment(loop), run_name=name, tags={**tags, **nested})
            kept = [Param(key, str(value)) for key, value in params.items()]
            for start in range(0, len(kept), PARAMS_AT_ONCE):
                self._client.log_batch(run.info.run_id, params=kept[start : start + PARAMS_AT_ONCE])
        return str(run.info.run_id)

    def log_dataset(self, run_id: str, name: str, fingerprint: str, url: str, profile: Mapping[str, Any]) -> None:
        """Attach the snapshot to the training run as its MLflow data set."""
        dataset = Dataset(
            name=name,
            digest=fingerprint[:16],
            source_type="local",
            source=json.dumps({"uri": url}),
            profile=json.dumps(dict(profile)),
        )
        with _translated("attach the snapshot"):
            tags = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def log_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Keep the resolved configuration with the training run: it can be repeated from its own page."""
        with _translated("keep the configuration"):
            self._client.log_dict(run_id, dict(config), "config.json")

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, now_ms: int) -> None:
        """Log one point of each curve."""
        with _translated("log metrics"):
            points = [Metric(key, float(value), now_ms, step) for key, value in metrics.items()]
            self._client.log_batch(run_id, metrics=points)

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a training run."""
        with _translated("tag the training run"):
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def finish_run(self, run_id: str, failed: bool = False, killed: bool = False) -> None:
        """Close a training run; killed: somebody ended it before its end."""
        with _translated("close the training run"):
            self._client.set_terminated(run_id, "FAILED" if failed else "KILLED" if killed else "FINISHED")

    def resume_run(self, run_id: str) -> bool:
        """Open a closed run again; False where it is gone."""
        with _translated("open a run again"):
            try:
                is_there = bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
            except MlflowException as error:
                if error.error_code in NOT_FOUND:
                    return False
                raise
            if is_there:
                self._client.update_run(run_id, status="RUNNING")
        return is_there

    def attach(self, run_id: str, file: Path, folder: str) -> None:
        """Put a file under the run's artefacts."""
        with _translated(f"attach {file.name}"):
            self._client.log_artifact(run_id, str(file), folder)

    def register(
        self,
        loop: str,
        run_id: str,
        folders: Mapping[str, Path],
        labels: list[str],
        description: str,
        tags: dict[str, str],
    ) -> ModelVersion:
        """Log bundle, checkpoint and evidence as one MLflow model and register it as the loop's next version."""
        outputs = [ColSpec(DataType.string, "label"), ColSpec(DataType.double, "score")]
        outputs += [ColSpec(DataType.double, f"p_{label}") for label in labels]
        engine = read_manifest(folders["bundle"]).engine
        with _translated(f"register a version of {loop}"), _serving_code() as code, self._active(run_id):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={name: str(folder) for name, folder in folders.items()},
                code_paths=[str(code)],
                signature=ModelSignature(Schema([ColSpec(DataType.string, "text")]), Schema(outputs)),
                pip_requirements=SERVING_REQUIREMENTS + ENGINE_REQUIREMENTS.get(engine, []),
                input_example=pd.DataFrame({"text": ["It does what it should."]}),
            )
            self._ensure_registered_model(loop)
            created = self._client.create_model_version(
                loop, logged.model_uri, run_id, tags=tags, description=description, model_id=logged.model_id
            )
        return _as_version(created)

    def fetch_bundle(self, version: ModelVersion, cache: Path) -> Path:
        """Return a local folder with the version's bundle, downloaded once."""
        return self._fetch(version, "bundle", cache)

    def fetch_checkpoint(self, version: ModelVersion, cache: Path) -> Path:
        """Return a local folder with the version's checkpoint, as `save_classifier` wrote it, downloaded once."""
        return self._fetch(version, "checkpoint", cache)

    def fetch_reference(self, version: ModelVersion, cache: Path) -> Path:
        """Return a local copy of the version's reference.parquet, downloaded once."""
        return self._fetch(version, "evidence", cache) / "reference.parquet"

    def _fetch(self, version: ModelVersion, part: str, cache: Path) -> Path:
        target = cache / version.loop / version.version / part
        self._forget_others(target.parent, version)
        name = f"{version.loop} version {version.version}"
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as partial, _translated(f"fetch the {part} of {name}"):
            place = self._client.get_model_version_download_uri(version.loop, version.version)
            source = f"{place}/artifacts/{part}"
            local = mlflow.artifacts.download_artifacts(source, dst_path=partial, tracking_uri=self._uri)
            with contextlib.suppress(OSError):  # another process was first: its copy is as good
                Path(local).rename(target)
        if not target.is_dir():
            raise TransientError(f"{target}: the {part} could not be stored")
        return target

    @staticmethod
    def _forget_others(folder: Path, version: ModelVersion) -> None:
        """Empty a version's cache that another registry filled: numbers start again where a model is made again."""
        origin = folder / "run_id"
        if folder.is_dir() and (not origin.is_file() or origin.read_text(encoding="utf-8") != version.run_id):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not origin.is_file():
            partial = folder / f"run_id.{os.getpid()}"
            partial.write_text(version.run_id, encoding="utf-8")
            partial.replace(origin)

    def _experiment(self, loop: str) -> str:
        found = self._client.get_experiment_by_name(loop)
        if found is not None:
            return str(found.experiment_id)
        location = (self._artifacts / loop).as_uri() if self._artifacts else None
        return str(self._client.create_experiment(loop, artifact_location=location))

    def _ensure_registered_model(self, loop: str) -> None:
        try:
            self._client.get_registered_model(loop)
        except MlflowException as error:
            if error.error_code not in NOT_FOUND:
                raise
            self._client.create_registered_model(loop)

    @contextlib.contextmanager
    def _active(self, run_id: str) -> Iterator[None]:
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)
        experiment = self._client.get_run(run_id).info.experiment_id
        with mlflow.start_run(run_id=run_id, experiment_id=experiment):
            yield


def open_registry(settings: Settings) -> ModelRegistry:
    """Return the registry of the MLflow server when it answers, else of the local store that the server would keep.

    Raises TransientError when MLflow runs elsewhere (EVERTUNE_MLFLOW_URL) and does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # its INFO lines tell of its own steps, not of ours
    if _is_healthy(settings.mlflow):
        return ModelRegistry(settings.mlflow, settings.mlflow_artifacts if settings.mlflow_url is None else None)
    if settings.mlflow_url is not None:
        raise TransientError(f"MLflow at {settings.mlflow_url} (EVERTUNE_MLFLOW_URL) does not answer")
    settings.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    return ModelRegistry(settings.mlflow_store, settings.mlflow_artifacts)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def _as_version(found: Any) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), found.run_id, found.source)


@contextlib.contextmanager
def _translated(action: str) -> Iterator[None]:
    """Turn MLflow's errors into ours: what is not there is wrong data, all else may pass."""
    try:
        yield
    except MlflowException as error:
        if error.error_code in NOT_FOUND | {"INVALID_PARAMETER_VALUE"}:
            raise DataError(f"MLflow could not {action}: {error.message}") from error
        raise TransientError(f"MLflow could not {action}: {error.message}") from error
    except OSError as error:  # requests' connection errors are OSErrors
        raise TransientError(f"MLflow could not {action}: {error}") from error


@contextlib.contextmanager
def _serving_code() -> Iterator[Path]:
    """Yield a `tasks` package with just the modules that answering needs, to travel with the model."""
    core = Path(__file__).parents[1] / "core"
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "tasks"
        (package / "core").mkdir(parents=True)
        for init in (package, package / "core"):
            (init / "__init__.py").touch()
        for module in SERVING_MODULES:
            shutil.copy(core / module, package / "core" / module)
        yield package
