"""The monitor flow on real stores and a real Prefect server; only the model registry is a folder."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import ArtifactSort
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from prefect.states import Completed
from prefect.testing.utilities import prefect_test_harness

from configs.settings import Settings
from flows.monitor import monitor
from tasks.core.drift_decisions import DriftDecision
from tasks.core.embedding import embed
from tasks.core.errors import TransientError
from tasks.monitoring import start_retrain
from tasks.stores.database import open_database
from tasks.stores.drift_decisions import DriftDecisions
from tasks.stores.ledger import Ledger, RetrainRow
from tasks.stores.model_registry import ModelVersion
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.retrain_deployment import is_retraining, start_deployment
from tests.support.monitored import make_predictions, make_reference, make_texts
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop

pytestmark = pytest.mark.usefixtures("prefect_server")
NOW = datetime.now(UTC)
COPIES = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "n_chars", "max_value": 10},
    "severity": "warning",
    "reason": "live texts are longer than 10 characters",
}


@dataclass
class FolderRegistry:
    """Keeps one champion and its files in a folder."""

    folder: Path
    version: str | None = "1"
    outages: int = 0
    attached: list[str] = field(default_factory=list)

    def find(self, loop: str, alias: str) -> ModelVersion | None:
        if self.outages:
            self.outages -= 1
            raise TransientError("MLflow could not be reached")
        assert alias == "champion"
        return ModelVersion(loop, self.version, f"run-{self.version}", "models:/m-1") if self.version else None

    def describe(self, version: ModelVersion) -> dict[str, Any]:
        return {"tags": {}, "metrics": {}, "description": "", "created": 0}

    def fetch_reference(self, version: ModelVersion, cache: Path) -> Path:
        return self.folder / "reference.parquet"

    def attach(self, run_id: str, file: Path, folder: str) -> None:
        assert file.stat().st_size > 100_000
        self.attached.append(f"{run_id}/{folder}/{file.name}")


@flow(name="retrain")
def stand_in_retrain(loop: str, started_by: str) -> None:
    """Has the name and the parameters of the real flow; nothing runs it here."""


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(quick):
        yield


@pytest.fixture
def loop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    monkeypatch.setenv("EVERTUNE_API_URL", "http://api.test")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write_toy_loop(tmp_path / "loops", num_rows=30)
    text = path.read_text(encoding="utf-8").replace("  k: 1\n  n: 1\n", "  k: 2\n  n: 3\n")
    assert "k: 2" in text
    path.write_text(text.replace("    rows:\n", f"    live: [{COPIES!r}]\n    rows:\n"), encoding="utf-8")
    return path


@pytest.fixture
def registry(loop_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderRegistry:
    registry = FolderRegistry(tmp_path)
    texts = make_texts(120, seed=99)
    vectors = embed(texts, str(loop_file.parent / "tiny-base"))
    make_reference(120, vectors).to_parquet(tmp_path / "reference.parquet")
    monkeypatch.setattr("tasks.monitoring.open_registry", lambda _settings: registry)
    return registry


@pytest.fixture
def deployment(registry: FolderRegistry) -> Iterator[UUID]:
    deployment = stand_in_retrain.to_deployment(name="toy")
    assert isinstance(deployment, RunnerDeployment)
    deployment_id = deployment.apply()
    assert isinstance(deployment_id, UUID)
    yield deployment_id
    with get_client(sync_client=True) as client:
        client.delete_deployment(deployment_id)


def log() -> PredictionLog:
    return PredictionLog(open_database(Settings().database))


def ledger() -> Ledger:
    return Ledger(open_database(Settings().database))


def send(topic: str, seed: int, num_rows: int = 90, minutes_ago: int = 60, version: str = "1") -> list[str]:
    start = NOW - timedelta(minutes=minutes_ago)
    rows = make_predictions(make_texts(num_rows, topic, seed), seed=seed, start=start, version=version)
    log().append(rows)
    return [row.prediction_id for row in rows]


def label(prediction_ids: list[str]) -> None:
    for prediction_id in prediction_ids:
        log().record_feedback(prediction_id, "negative", "person", datetime.now(UTC), "key")


def newest_artifact(key: str) -> str:
    with get_client(sync_client=True) as client:  # Artifact.get would leave its socket open
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC)
    return str(found[0].data)


def test_a_loop_without_champion_has_nothing_to_compare(registry: FolderRegistry) -> None:
    registry.version = None
    record = monitor("toy")
    assert (record["verdict"], record["decision"]["action"], record["report_url"]) == ("too few", "wait", None)
    assert record["reason"] == "no champion yet; train one: evertune retrain toy"
    assert ledger().recent_reports("toy", 1) == []


def test_too_few_texts_give_no_verdict_and_no_page(registry: FolderRegistry) -> None:
    record = monitor("toy")
    assert (record["verdict"], record["window"]["n"], record["report_url"]) == ("too few", 0, None)
    assert record["decision"]["action"] == "wait"
    send("camera", 1, num_rows=1)
    record = monitor("toy")
    assert (record["verdict"], record["window"]["n"]) == ("too few", 1)
    assert record["report_url"] is not None
    assert [row.verdict for row in ledger().recent_reports("toy", 5)] == ["too few", "too few"]


def test_a_quiet_window_is_reported(registry: FolderRegistry) -> None:
    registry.outages = 1  # asked again, not taken for "no champion"
    send("senate", 9, version="0")  # another version answered these
    label(send("camera", 1)[:6])
    record = monitor("toy")
    assert (record["verdict"], record["window"]["n"], record["accuracy"]["n_labelled"]) == ("ok", 90, 6)
    assert 0.6 < record["accuracy"]["estimated"] < 1
    assert record["live"] == [
        {"reason": COPIES["reason"], "severity": "warning", "success": False, "observed": record["live"][0]["observed"]}
    ]
    page = Settings().root / "reports" / "toy" / f"{record['report_id']}.html"
    text = page.read_text(encoding="utf-8")
    assert record["report_url"] == f"http://api.test/reports/toy/{record['report_id']}"
    assert "no test fires" in text
    assert "camera very" not in text
    assert "row-1" not in text
    assert registry.attached == ["run-1/monitoring/latest-quiet.html"]
    assert record["report_url"] in newest_artifact("toy-monitor")
    assert record["report_url"] in newest_artifact("toy-monitor-report")
    [row] = ledger().recent_reports("toy", 5)
    assert (row.report_id, row.version, row.verdict, row.fired, row.record) == (
        record["report_id"], "1", "ok", False, record
    )  # fmt: skip


def test_drift_asks_for_labels_then_starts_one_retrain(
    deployment: UUID, registry: FolderRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[tuple[str, str, dict[str, Any]]] = []
    monkeypatch.setattr("tasks.monitoring.emit", lambda *alert: alerts.append(alert))
    send("broken", 1, minutes_ago=60)
    assert monitor("toy")["verdict"] == "watch"
    again = monitor("toy")
    assert again["verdict"] == "watch"
    assert "0 new texts since the last window" in again["reason"]

    shifted = send("broken", 2, minutes_ago=30)
    drifted = monitor("toy")
    assert (drifted["verdict"], drifted["decision"]["action"]) == ("drift", "label first")
    assert drifted["since"] == ledger().recent_reports("toy", 3)[2].at.isoformat()
    assert f"run-1/monitoring/{drifted['report_id']}.html" in registry.attached

    label(shifted[:20])
    retrained = monitor("toy")
    assert retrained["decision"]["action"] == "retrain"
    assert "20 labels that no training has seen; retrain" in retrained["decision"]["reason"]
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(retrained["decision"]["flow_run_id"]))
    assert flow_run.deployment_id == deployment
    assert flow_run.parameters == {"loop": "toy", "started_by": "drift"}

    assert monitor("toy")["decision"]["reason"] == (
        "drift and enough labels, but a retrain is already running or about to start"
    )
    finish(flow_run.id)
    cooling = monitor("toy")["decision"]
    assert (cooling["action"], "cooldown" in cooling["reason"]) == ("wait", True)

    assert [(kind, loop, alert["decision"]["action"]) for kind, loop, alert in alerts] == [
        ("drift", "toy", "label first"),
        ("drift", "toy", "retrain"),
        ("drift", "toy", "wait"),
    ]
    assert alerts[0][2]["link"] == drifted["report_url"]


def decide_drift(action: str, **values: Any) -> None:
    decision = DriftDecision(datetime.now(UTC), action, "eve", "a new shop", **values)  # type: ignore[arg-type]
    DriftDecisions(open_database(Settings().database)).keep("toy", decision)


def test_a_mute_silences_drift_and_an_acknowledged_window_is_what_is_normal(
    registry: FolderRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[dict[str, Any]] = []
    monkeypatch.setattr("tasks.monitoring.emit", lambda *alert: alerts.append(alert[2]))
    decide_drift("mute", until=datetime.now(UTC) + timedelta(hours=1))
    send("broken", 1, minutes_ago=60)
    monitor("toy")
    label(send("broken", 2, minutes_ago=30))
    muted = monitor("toy")
    assert (muted["verdict"], muted["decision"]["action"], alerts) == ("drift", "wait", [])
    assert "drift is muted until" in muted["decision"]["reason"]
    assert muted["muted"]["why"] == "a new shop"
    assert muted["reference"]["kind"] == "test rows"
    assert muted["explanation"]["new"]["at_least"] > 0.3
    assert "words are not compared" in muted["explanation"]["note"]
    assert "new traffic: about" in newest_artifact("toy-monitor")
    decide_drift("unmute")
    monitor("toy")
    assert "- new traffic: about" in alerts[0]["body"]

    window = {f"window_{end}": datetime.fromisoformat(muted["window"][end]) for end in ("from", "to")}
    decide_drift("acknowledge", version="1", report_id=muted["report_id"], **window)
    send("broken", 3, minutes_ago=10)
    calm = monitor("toy")
    assert (calm["verdict"], calm["reference"]["report_id"]) == ("ok", muted["report_id"])
    assert calm["reference"]["kind"] == "acknowledged window"
    assert calm["accuracy"]["estimated"] is not None  # by the test rows: the window has no labels
    decide_drift("restore", version="1")
    assert monitor("toy")["verdict"] == "watch"  # its votes begin anew


def test_labels_that_a_refused_retrain_saw_do_not_start_another(registry: FolderRegistry) -> None:
    label(send("broken", 1, minutes_ago=60))
    monitor("toy")
    send("broken", 2, minutes_ago=30)
    refused = {"seconds": {"total": 0.0}, "decision": {"promote": False, "reasons": []}}
    ledger().append_retrain(RetrainRow("run", datetime.now(UTC), "toy", "person", "trained", "2", refused))
    decision = monitor("toy")["decision"]
    assert (decision["action"], "only 0 of 20 labels" in decision["reason"]) == ("label first", True)


def test_a_retrain_that_cannot_be_started_is_told_and_fails_nothing(registry: FolderRegistry) -> None:
    send("broken", 1, minutes_ago=60)
    monitor("toy")
    label(send("broken", 2, minutes_ago=30))
    decision = monitor("toy")["decision"]
    assert (decision["action"], decision["flow_run_id"]) == ("retrain", None)
    assert "there is no deployment retrain/toy; by hand: evertune retrain toy" in decision["reason"]


def test_one_key_starts_one_retrain(deployment: UUID) -> None:
    assert is_retraining("toy", datetime.now(UTC)) is False
    first, second, other = (start_deployment("toy", key) for key in ("a", "a", "b"))
    assert first.flow_run_id == second.flow_run_id != other.flow_run_id
    assert is_retraining("toy", datetime.now(UTC) + timedelta(seconds=1)) is True
    assert is_retraining("another", datetime.now(UTC)) is False


def test_without_a_server_nothing_runs_and_nothing_can_be_started() -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        assert is_retraining("toy", NOW) is False
        start = start_deployment("toy", "key")
    assert start.flow_run_id is None
    assert start.note == "it cannot be started without a running stack; by hand: evertune retrain toy"


def test_a_server_that_does_not_answer_is_asked_again_and_told_of_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(silent):
        with pytest.raises(TransientError, match="Prefect could not list the retrains of toy"):
            is_retraining("toy", NOW)
        with pytest.raises(TransientError, match="Prefect could not start retrain/toy"):
            start_retrain.fn("toy", "report")
        monkeypatch.setattr("tasks.monitoring.RETRIES", 0)  # the last attempt
        start = start_retrain.fn("toy", "report")
    assert start.flow_run_id is None
    assert "it did not start, the next check tries again: Prefect could not start retrain/toy" in start.note


def finish(flow_run_id: UUID) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, Completed(), force=True)
        assert client.read_flow_run(flow_run_id).state_type == StateType.COMPLETED
