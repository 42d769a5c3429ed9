"""The retrain flow with every real part but the servers: snapshot, validation, training, gate, MLflow, ledger."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import State
from prefect.states import Suspended
from prefect.testing.utilities import prefect_test_harness

from configs.load import ConfigError
from configs.settings import Settings
from flows.approve import approve
from flows.release import rollback
from flows.retrain import RetrainChanges, retrain
from infra.cli import main
from tasks.core.errors import DataError, TransientError
from tasks.core.export import export_bundle
from tasks.core.predictor import Predictor
from tasks.core.trainer import Progress
from tasks.stores.approval_runs import stop_asking
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.model_registry import ModelRegistry, open_registry
from tasks.stores.snapshots import SnapshotStore
from tasks.training import _Reporter, only_retrain
from tests.support.ports import free_port
from tests.support.tiny_base import make_rows
from tests.support.toy_loop import write_toy_loop

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without servers: MLflow's store is used directly, and the service is not there."""
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    for server in ("MLFLOW", "API", "PREFECT"):
        monkeypatch.setenv(f"EVERTUNE_{server}_PORT", str(free_port()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home"


@pytest.fixture
def loop_file(home: Path, tmp_path: Path) -> Path:
    return write_toy_loop(tmp_path / "loops")


def registry() -> ModelRegistry:
    return open_registry(Settings())


def test_a_first_retrain_promotes_and_a_second_finds_nothing_new(loop_file: Path, home: Path) -> None:
    record = retrain("toy")
    assert record["status"] == "trained"
    assert record["decision"]["promote"] is True
    assert record["metrics"]["macro_f1"] > 0.8
    low, high = record["metrics"]["accuracy_ci"]
    assert low <= record["metrics"]["accuracy"] <= high
    assert record["metrics"]["n"] == record["snapshot"]["test"] > 30
    assert set(record["seconds"]) == {"snapshot", "validate", "train", "evaluate", "register", "release", "total"}
    assert record["released"] == "pending"  # no service runs here; the alias waits for it
    champion = registry().find("toy", "champion")
    assert champion is not None
    assert champion.version == record["version"] == "1"
    bundle = registry().fetch_bundle(champion, home / "models")
    assert Predictor.load(bundle).labels == ("negative", "positive")
    reference = pd.read_parquet(registry().fetch_reference(champion, home / "models"))
    assert len(reference) == record["metrics"]["n"]
    tags = registry().describe(champion)["tags"]
    assert (tags["snapshot"], tags["gate"]) == (record["snapshot"]["fingerprint"], "promote")
    again = retrain("toy", started_by="schedule")
    assert again["status"] == "skipped"
    assert again["version"] is None
    assert again["decision"]["reasons"] == [
        "nothing new: data, training configuration and code are those of the champion"
    ]
    assert again["seconds"]["validate"] == 0.0
    ledger = Ledger(open_database(Settings().database))
    assert [(row.status, row.started_by) for row in ledger.recent_retrains("toy", 5)] == [
        ("skipped", "schedule"),
        ("trained", "person"),
    ]
    assert [(row.action, row.to_version) for row in ledger.audit("toy")] == [("promote", "1")]


def test_a_refused_challenger_leaves_the_champion(loop_file: Path, home: Path) -> None:
    assert retrain("toy")["decision"]["promote"]
    record = retrain("toy", RetrainChanges(epochs=0.3, learning_rate=1e-6, set=["training.head_learning_rate=1e-6"]))
    assert record["decision"]["promote"] is False
    assert record["released"] == "not promoted"
    assert record["champion_metrics"]["macro_f1"] > record["metrics"]["macro_f1"]
    refused = [reason for reason in record["decision"]["reasons"] if reason.startswith("refused")]
    assert any("below the floor" in reason for reason in refused)
    assert any("against the champion" in reason for reason in refused)
    champion, challenger = (registry().find("toy", alias) for alias in ("champion", "challenger"))
    assert champion is not None
    assert challenger is not None
    assert (champion.version, challenger.version) == ("1", "2")
    assert "floor" in registry().describe(challenger)["tags"]["gate_failed"].split(" | ")
    assert Ledger(open_database(Settings().database)).audit("toy")[-1].action == "refuse"
    gate = registry().fetch_reference(challenger, home / "models").with_name("gate.json")
    assert json.loads(gate.read_text(encoding="utf-8"))["decision"]["promote"] is False


def test_new_rows_train_a_new_version_on_the_same_frozen_test_rows(loop_file: Path, home: Path) -> None:
    first = retrain("toy")
    rows = pd.concat([make_rows(420), make_rows(90, seed=9)])
    rows.to_csv(loop_file.with_name("reviews.csv"), index=False)
    second = retrain("toy", started_by="drift")
    assert second["status"] == "trained"
    assert second["snapshot"]["train"] > first["snapshot"]["train"]
    assert second["snapshot"]["test"] >= first["snapshot"]["test"]
    old, new = (
        set(pd.read_parquet(home / "snapshots" / "toy" / record["snapshot"]["fingerprint"] / "test.parquet")["row_id"])
        for record in (first, second)
    )
    assert old <= new


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda path: path.write_text("text,stars\ngood,1\n" * 1, encoding="utf-8"), DataError, "label"),
        (lambda path: path.unlink(), DataError, "reviews.csv"),
        (lambda path: path.write_bytes(b"text,label\ncaf\xe9,positive\n" * 20), DataError, "UTF-8"),
        (lambda path: make_rows(3).to_csv(path, index=False), DataError, "rows"),
        (lambda path: make_rows(90).assign(label="positive").to_csv(path, index=False), DataError, "negative"),
        (lambda path: make_rows(90).assign(label="great").to_csv(path, index=False), DataError, "quarantine"),
    ],
    ids=["no label column", "no file", "not UTF-8", "three rows", "one class", "unknown labels"],
)
def test_bad_data_stops_the_run_and_the_champion_stays(
    loop_file: Path, home: Path, break_it: object, error: type[Exception], message: str
) -> None:
    assert callable(break_it)
    break_it(loop_file.with_name("reviews.csv"))
    with pytest.raises(error, match=message):
        retrain("toy")
    assert registry().find("toy", "champion") is None
    assert registry().list_versions("toy") == []


def test_contradicting_copies_are_quarantined(loop_file: Path, home: Path) -> None:
    rows = make_rows(420)
    copies = rows.head(4).assign(row_id=lambda frame: frame["row_id"] + "-copy")
    copies.loc[:1, "label"] = copies.loc[:1, "label"].map({"negative": "positive", "positive": "negative"})
    pd.concat([rows, copies]).to_csv(loop_file.with_name("reviews.csv"), index=False)
    record = retrain("toy", RetrainChanges(epochs=1))
    assert record["snapshot"]["quarantined"] == 4
    folder = home / "snapshots" / "toy" / record["snapshot"]["fingerprint"]
    parked = set(pd.read_parquet(folder / "quarantine.parquet")["row_id"])
    assert parked == {f"reviews:row-0-{row}{copy}" for row in (0, 1) for copy in ("", "-copy")}


def test_other_labels_are_another_loop(loop_file: Path, home: Path, tmp_path: Path) -> None:
    retrain("toy")
    rows = make_rows(420).replace({"label": {"positive": "good"}})
    rows.to_csv(loop_file.with_name("reviews.csv"), index=False)
    text = loop_file.read_text(encoding="utf-8").replace("- positive", "- good")
    loop_file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="give it a new name"):
        retrain("toy")


def test_an_unknown_loop_and_a_wrong_change_are_named(loop_file: Path) -> None:
    with pytest.raises(ConfigError, match="no loop 'nope'; there are: toy"):
        retrain("nope")
    with pytest.raises(ConfigError, match=r"training\.batch_size: Input should be greater than or equal to 1"):
        retrain("toy", RetrainChanges(set=["training.batch_size=0"]))


def test_a_rollback_is_not_undone_by_the_next_night(loop_file: Path, home: Path) -> None:
    quick = RetrainChanges(set=["gate.min_macro_f1=0.1"], epochs=1)
    retrain("toy", quick)
    second = retrain(
        "toy", quick.model_copy(update={"seed": 14, "set": ["gate.min_macro_f1=0.1", "gate.max_accuracy_loss=0.9"]})
    )
    assert second["released"] == "pending"
    rollback("toy")
    champion = registry().find("toy", "champion")
    assert champion is not None
    assert champion.version == "1"
    night = retrain("toy", quick.model_copy(update={"seed": 14}), started_by="schedule")
    assert night["status"] == "skipped"
    assert "version 2, which served before and was taken back" in night["decision"]["reasons"][0]


def test_another_gate_hears_a_refused_challenger_again(loop_file: Path, home: Path) -> None:
    strict = RetrainChanges(set=["gate.min_macro_f1=0.999"], epochs=1)
    assert retrain("toy", strict)["decision"]["promote"] is False
    again = retrain("toy", strict)
    assert again["decision"]["reasons"] == [
        "nothing new: data, training configuration and code are those of version 1, which this gate refused"
    ]
    lenient = retrain("toy", RetrainChanges(set=["gate.min_macro_f1=0.1"], epochs=1))
    assert (lenient["status"], lenient["decision"]["promote"]) == ("trained", True)
    assert registry().find("toy", "challenger") is None  # it won


def test_what_waits_for_a_yes_is_not_trained_again(loop_file: Path, home: Path) -> None:
    careful = RetrainChanges(set=["gate.min_macro_f1=0.1", "release.approval=required"], epochs=1)
    assert retrain("toy", careful)["released"] == "awaiting approval"
    assert registry().find("toy", "champion") is None
    assert retrain("toy", careful)["decision"]["reasons"] == [
        "nothing new: data, training configuration and code are those of version 1, which waits for approval"
    ]


def test_the_end_of_a_question_also_ends_the_run_that_asks_for_whichever_waits(home: Path) -> None:
    with get_client(sync_client=True) as client:
        waiting: State[None] = Suspended(timeout_seconds=60)
        runs = [
            client.create_flow_run(approve, parameters={"loop": "toy", "version": version}, state=waiting).id
            for version in ("1", None, "2")
        ]
        stop_asking("toy", ["1", None], "version 2 is newer", Settings())
        assert [client.read_flow_run(run).state_name for run in runs] == ["Cancelled", "Cancelled", "Suspended"]


def test_a_challenger_goes_on_from_the_champion_with_new_and_old_rows(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_file = write_toy_loop(tmp_path / "loops", unknown={"max_refused_share": 0.2})
    scopes: list[int] = []

    def export(*args: Any, **kwargs: Any) -> Predictor:
        scopes.append(len(kwargs["train"]))
        return export_bundle(*args, **kwargs)

    monkeypatch.setattr("tasks.core.export.export_bundle", export)
    monkeypatch.setattr("tasks.training_rows.ROWS_IN_MEMORY", 100)  # the first run reads its rows from a file
    going_on = RetrainChanges(set=["training.from=champion", "training.replay.old_per_new=0.5"])
    assert retrain("toy", going_on)["decision"]["promote"]  # without a champion it begins at the base model
    again = retrain("toy", going_on)
    assert again["decision"]["reasons"] == [
        "nothing new: the champion, version 1, knows every training row, and training goes on from it"
    ]
    pd.concat([make_rows(420), make_rows(90, seed=9)]).to_csv(loop_file.with_name("reviews.csv"), index=False)
    second = retrain("toy", RetrainChanges(set=going_on.set, epochs=2))
    assert second["decision"]["promote"], second["decision"]
    champion = registry().find("toy", "champion")
    assert champion is not None
    facts = facts_of(registry().describe(champion)["description"])
    assert facts["started from version"] == "1"
    assert int(facts["new rows"]) > 30
    assert abs(int(facts["replayed rows"]) - int(facts["new rows"]) / 2) <= 3
    assert int(facts["train rows"]) == int(facts["new rows"]) + int(facts["replayed rows"])
    assert scopes[-1] == second["snapshot"]["train"] > int(facts["train rows"])
    assert registry().describe(champion)["tags"]["started_from"] == "1"
    same = retrain("toy", RetrainChanges(set=going_on.set, epochs=2))
    assert (same["status"], same["version"]) == ("skipped", None)
    other = retrain("toy", RetrainChanges(set=[*going_on.set, "training.max_steps=2"]))
    assert other["status"] == "trained", "another recipe is worth a run on the rows that the champion knows"
    drawn = RetrainChanges(set=[*going_on.set, "data.splits.key=other-splits", "training.max_steps=2"])
    assert retrain("toy", drawn)["status"] == "trained"
    assert re.search(r"the champion, version \d, learned \d+ of today's \d+ test rows; training begins", caplog.text)
    third = retrain("toy", RetrainChanges(set=[*going_on.set, "training.pooling=cls"], epochs=1))
    assert third["status"] == "trained"  # not from a champion whose head reads other vectors
    assert re.search(r"training\.from: the champion, version \d, pools by mean, the loop by cls", caplog.text)


def test_a_curve_that_cannot_be_logged_costs_no_training(caplog: pytest.LogCaptureFixture) -> None:
    class Tracking:
        is_away = True
        logged: ClassVar[list[int]] = []

        def log_metrics(self, run_id: str, metrics: dict[str, float], step: int, now_ms: int) -> None:
            if self.is_away:
                raise TransientError("MLflow could not log metrics")
            self.logged.append(step)

    tracking = Tracking()

    @flow
    def report() -> None:
        reporter = _Reporter(tracking, "run")
        for step, is_away in enumerate([True, True, False, True]):
            tracking.is_away = is_away
            reporter(Progress(step, 4, 1.0, {"loss": 0.5}))

    report()
    assert tracking.logged == [2]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    lost = "the curves lack what is measured from step {} on: MLflow could not log metrics"
    assert told == [lost.format(0), lost.format(3)]


def test_suspects_count_less_and_texts_out_of_scope_are_unknown(home: Path, tmp_path: Path) -> None:
    write_toy_loop(tmp_path / "loops", unknown={"max_refused_share": 0.2})
    noise = ["training.label_noise.suspect_weight=0.1", "training.label_noise.folds=2"]
    record = retrain("toy", RetrainChanges(set=noise))
    assert record["decision"]["promote"], record["decision"]
    champion = registry().find("toy", "champion")
    assert champion is not None
    facts = facts_of(registry().describe(champion)["description"])
    assert int(facts["suspicious rows"]) == record["suspicious_rows"]
    fingerprint = record["snapshot"]["fingerprint"]
    assert SnapshotStore(Settings().snapshots).read_page("toy", fingerprint, "suspects") is not None
    predictor = Predictor.load(registry().fetch_bundle(champion, home / "models"))
    assert predictor.manifest.min_closeness is not None
    reference = pd.read_parquet(registry().fetch_reference(champion, home / "models"))
    share = (reference["predicted"] == "unknown").mean()
    assert facts["test rows answered unknown"] == f"{share:.1%}"
    assert share < 0.3


def facts_of(card: str) -> dict[str, str]:
    cells = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_two_retrains_of_one_loop_never_overlap(loop_file: Path, home: Path) -> None:
    with only_retrain("toy"), pytest.raises(DataError, match="another retrain of 'toy' runs with this home"):
        retrain("toy")


CASES = """\
min_passed_share: {must: 1.0}
cases:
  - {kind: must, text: the camera is great, label: positive}
  - {kind: must, text: the phone is awful, label: negative}
  - {kind: must, text: the phone is not great, label: negative, why: it never read not}
  - {kind: invariance, text: this screen is superb, variants: [this phone is superb]}
"""
SLICES = [
    {"name": "short", "words": [1, 3]},
    {"name": "camera", "pattern": "camera"},
    {"name": "batch", "column": "batch"},
    {"name": "newest", "newest": 0.3},
]


def test_slices_and_cases_are_judged_shown_and_part_of_the_gate(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_toy_loop(tmp_path / "loops", slices=SLICES, serving={"max_batch": 16})  # engine: auto
    rows = make_rows(420)
    rows["batch"] = ["even" if number % 2 else "odd" for number in range(420)]
    rows.to_csv(path.with_name("reviews.csv"), index=False)
    text = path.read_text(encoding="utf-8").replace("rating: rating", "rating: rating\n      attributes: [batch]")
    path.write_text(text, encoding="utf-8")
    cases = path.with_name("toy.cases.yaml")
    cases.write_text(CASES.replace("must: 1.0", "must: 0.6"), encoding="utf-8")
    first = retrain("toy")
    assert first["decision"]["promote"] is True
    assert "ok: slices: none of 4 judged: no champion yet" in first["decision"]["reasons"]
    assert first["cases"]["must"] == {"passed": 2, "n": 3, "failed": [3]}
    cases.write_text(CASES, encoding="utf-8")
    second = retrain("toy", RetrainChanges(seed=15, set=["gate.max_accuracy_loss=0.5", "gate.min_slice_rows=20"]))
    assert second["decision"]["promote"] is False
    assert second["decision"]["reasons"][0].startswith(
        "refused: behavioural cases: must 2 of 3 (100% needed, failed: 3); invariance 1 of 1"
    )
    sliced = {one["name"]: one for one in second["slices"]}
    assert list(sliced) == ["short", "camera", "batch=even", "batch=odd", "newest"]
    assert sliced["batch=even"]["n"] + sliced["batch=odd"]["n"] == second["metrics"]["n"]
    assert sliced["batch=odd"]["verdict"] == "kept"
    assert sliced["batch=odd"]["champion_accuracy"] > 0.7
    assert sliced["newest"]["verdict"] == "no test row has a date"
    version = registry().get("toy", second["version"])
    evidence = registry().fetch_reference(version, home / "models").parent
    behaviour = pd.read_csv(evidence / "behaviour.csv")
    assert behaviour.loc[0, ["case", "passed", "answered"]].tolist() == [3, False, "positive"]
    assert pd.read_csv(evidence / "slices.csv")["slice"].tolist() == list(sliced)
    assert {"precision_recall.png", "slices.png", "reliability.png", "confusion.png"} <= {
        file.name for file in evidence.iterdir()
    }
    gate = json.loads((evidence / "gate.json").read_text(encoding="utf-8"))
    assert [rule["name"] for rule in gate["decision"]["rules"]][-3:] == ["behavioural cases", "latency", "size"]
    assert gate["latency_ms"] > 0
    assert gate["size_mb"] > 0
    told = registry().describe(version)
    assert told["metrics"]["slices/batch_odd/accuracy"] == pytest.approx(sliced["batch=odd"]["accuracy"])
    assert told["metrics"]["behaviour/must"] == pytest.approx(2 / 3)
    assert "| batch=odd |" in told["description"]
    card = (evidence / "model_card.md").read_text(encoding="utf-8")
    assert "case 3 (it never read not)" in card
    served = Predictor.load(registry().fetch_bundle(version, home / "models"))
    assert f"| engine | {served.manifest.engine} |" in card
    assert told["tags"]["engine"] == served.manifest.engine
    assert card.count("**serves**") == 1
    assert all(f"| {engine} |" in card for engine in ("onnx-fp32", "onnx-int8", "openvino-bf16", "torch-cuda"))
    assert served.manifest.call_tokens is not None
    cases.write_text(CASES.replace("must: 1.0", "must: 0.6"), encoding="utf-8")
    assert ask_cases(monkeypatch, "toy") == 0
    assert "must 2 of 3 (60% needed, failed: 3)" in capsys.readouterr().out
    cases.write_text(CASES, encoding="utf-8")
    assert ask_cases(monkeypatch, "toy", "--version", "2", "--json") == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["version"], answer["is_met"]) == ("2", False)
    assert [case["passed"] for case in answer["cases"]] == [True, True, False, True]


def ask_cases(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evertune", "cases", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)
