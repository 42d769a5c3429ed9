"""What all servers are given: one fine-tuned model in two versions, and the test rows' texts."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from configs.settings import Settings
from infra.environment import build_environment
from infra.ports import find_free_port
from tasks.stores.model_registry import ModelRegistry, open_registry
from tasks.stores.snapshots import SnapshotStore

LOOP = "product-sentiment"
TOKEN = secrets.token_urlsafe(16)
PLANS = """
currency: EUR
default_plan: bench
plans:
  bench:
    description: Every limit is on, and none is reached.
    requests_per_second: 100000
    burst: 1000000
    texts_per_month: 1000000000
    beyond: bill
    monthly_price: 1
    price_per_1000_texts: 0.1
"""


@dataclass(frozen=True)
class Prepared:
    """Where model and texts lie."""

    home: Path
    environment: Mapping[str, str]  # that makes a process one of this stack
    versions: tuple[str, str]
    bundle: Path  # of the first version
    checkpoint: Path
    model_uri: str
    pipeline: Path  # the same checkpoint as an MLflow model of a transformers pipeline
    texts: tuple[str, ...]


def prepare(home: Path) -> Prepared:
    """Train what the home does not have yet, two minutes each, and return where everything lies."""
    home.mkdir(parents=True, exist_ok=True)
    plans = home / "bench-plans.yaml"
    plans.write_text(PLANS, encoding="utf-8")
    port = str(find_free_port())  # where no MLflow server is: the store is opened on disk
    own = {"EVERTUNE_HOME": str(home), "EVERTUNE_MLFLOW_PORT": port, "EVERTUNE_PLANS_FILE": str(plans)}
    settings = Settings.model_validate({"home": home, "mlflow_port": int(port), "plans_file": plans})
    environment = build_environment(settings, {**os.environ, **own}, Path.cwd()) | own
    environment["MLFLOW_TRACKING_URI"] = settings.mlflow_store
    environment["EVERTUNE_OPERATOR_TOKEN"] = TOKEN
    registry = open_registry(settings)
    first, second = (_version(registry, environment, number) for number in (1, 2))
    version = registry.get(LOOP, first)
    snapshots = SnapshotStore(settings.snapshots)
    snapshot = snapshots.newest(LOOP)
    assert snapshot is not None
    test: pd.DataFrame = snapshots.read_split(snapshot, "test")
    return Prepared(
        home,
        environment,
        (first, second),
        registry.fetch_bundle(version, home / "bench"),
        registry.fetch_checkpoint(version, home / "bench"),
        f"models:/{LOOP}/{first}",
        _save_pipeline(home / "bench-mlflow-pipeline"),
        tuple(test["text"]),
    )


def _save_pipeline(folder: Path) -> Path:
    import mlflow

    if not folder.exists():
        code = Path(__file__).parent / "rivals" / "mlflow_pipeline.py"
        mlflow.pyfunc.save_model(folder, python_model=str(code), pip_requirements=[])
    return folder


def write_bodies(prepared: Prepared, kind: str, lines: list[str]) -> Path:
    """Write request bodies as jsonl and return the file."""
    file = prepared.home / f"bench-{kind}.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _version(registry: ModelRegistry, environment: Mapping[str, str], number: int) -> str:
    known = {version.version for version in registry.list_versions(LOOP)}
    if str(number) not in known:
        options = [] if number == 1 else ["--set", "training.preset=fast"]
        command = [sys.executable, "-m", "infra.cli", "retrain", LOOP, "--json", *options]
        done = subprocess.run(command, env=dict(environment), stdout=subprocess.PIPE, timeout=1800, check=False)
        if done.returncode not in (0, 3):  # 3: the gate said no, the version is there all the same
            raise RuntimeError(f"retrain ended with {done.returncode}")
        print(json.dumps(json.loads(done.stdout).get("decision", {})), file=sys.stderr)
    return str(number)
