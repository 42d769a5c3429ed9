"""Real fine-tuning of a tiny real encoder: it learns, it exports truly, and a killed run goes on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from configs.schema import Training
from tasks.core.checkpoints import keep_complete_checkpoints
from tasks.core.classifier import load_classifier, load_tokenizer, save_classifier
from tasks.core.embedding import embed
from tasks.core.errors import DataError
from tasks.core.export import checkpoint_logits, export_bundle
from tasks.core.fine_tuning import FineTuned, fine_tune
from tasks.core.predictor import Predictor, softmax
from tasks.core.trainer import Progress
from tests.support.tiny_base import make_rows, write_tiny_base

LABELS = ["negative", "positive"]
TRAIN, VALIDATION, TEST = make_rows(240, seed=1), make_rows(60, seed=2), make_rows(90, seed=3)


def settings(**changes: object) -> Training:
    plain = {
        "base_model": "unused",
        "epochs": 8,
        "learning_rate": 3e-3,
        "head_learning_rate": 1e-2,
        "precision": "fp32",
        "early_stopping_patience": None,
    }
    return Training.model_validate(plain | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def train(base: Path, folder: Path, seen: list[Progress] | None = None, **changes: object) -> FineTuned:
    report = (seen if seen is not None else []).append
    return fine_tune(TRAIN, VALIDATION, LABELS, settings(**changes), str(base), folder, report)


def accuracy_of(predictor: Predictor, rows: pd.DataFrame) -> float:
    answers = predictor.predict(rows["text"].tolist()).probabilities.argmax(1)
    return float((np.array(LABELS)[answers] == rows["label"].to_numpy()).mean())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "lora", "lora": {"rank": 8, "alpha": 32.0}, "epochs": 10},
        {"pooling": "cls", "freeze_embeddings": False},
        {"rating_weight": 0.5, "class_weights": "balanced"},
        {"precision": "bf16"},
    ],
    ids=["full", "lora", "cls", "ratings", "bf16"],
)
def test_it_learns_and_the_export_repeats_the_checkpoint(
    base: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    seen: list[Progress] = []
    tuned = train(base, tmp_path / "run", seen, **changes)
    gold = VALIDATION["label"].map(LABELS.index).to_numpy()
    predictor = export_bundle(
        tuned.classifier, tuned.tokenizer, "toy", VALIDATION["text"].tolist(), gold, tmp_path / "b"
    )
    assert accuracy_of(predictor, TEST) > 0.9
    save_classifier(tuned.classifier, tuned.tokenizer, tmp_path / "saved")
    loaded, tokenizer = load_classifier(tmp_path / "saved"), load_tokenizer(str(tmp_path / "saved" / "encoder"))
    logits = checkpoint_logits(loaded, tokenizer, TEST["text"].tolist())
    export = predictor.predict(TEST["text"].tolist()).probabilities
    assert np.abs(softmax(logits / predictor.manifest.temperature) - export).max() < 1e-4
    assert predictor.largest_case_difference() < 1e-5
    assert seen[-1].step == seen[-1].num_steps == tuned.steps
    assert max(progress.metrics.get("eval_macro_f1", 0) for progress in seen) == pytest.approx(
        tuned.validation_macro_f1
    )


def test_the_saved_checkpoint_holds_no_pickle(base: Path, tmp_path: Path) -> None:
    tuned = train(base, tmp_path / "run", epochs=1)
    save_classifier(tuned.classifier, tuned.tokenizer, tmp_path / "saved")
    suffixes = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt"}
    assert set(load_file(tmp_path / "saved" / "heads.safetensors")) == {"head.weight", "head.bias"}


class Killed(BaseException):
    pass


def test_a_killed_run_continues_at_its_last_complete_checkpoint(base: Path, tmp_path: Path) -> None:
    def die_late(progress: Progress) -> None:
        if progress.step >= 30:
            raise Killed

    with pytest.raises(Killed):
        fine_tune(TRAIN, VALIDATION, LABELS, settings(), str(base), tmp_path / "killed", die_late)
    checkpoint = keep_complete_checkpoints(tmp_path / "killed")
    assert checkpoint is not None
    (tmp_path / "killed" / "checkpoint-999").mkdir()  # one that was being written when the power went
    resumed = train(base, tmp_path / "killed")
    whole = train(base, tmp_path / "whole")
    assert resumed.resumed_from == int(checkpoint.name.split("-")[1]) > 0
    assert resumed.steps == whole.steps
    answers = [checkpoint_logits(run.classifier, run.tokenizer, TEST["text"].tolist()) for run in (resumed, whole)]
    assert np.abs(answers[0] - answers[1]).max() < 1e-3


def test_the_same_seed_gives_the_same_losses_as_ever(
    base: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The golden file is rewritten by `make golden` only: a refactor must repeat these losses."""
    seen: list[Progress] = []
    train(base, tmp_path / "run", seen, seed=5)
    losses = [round(progress.metrics["loss"], 3) for progress in seen if "loss" in progress.metrics]
    golden = Path(__file__).with_name("golden_losses.json")
    if request.config.getoption("--golden"):
        golden.write_text(json.dumps(losses), encoding="utf-8")
    assert losses == pytest.approx(json.loads(golden.read_text(encoding="utf-8")), abs=0.02)


def test_early_stopping_ends_a_run_that_no_longer_gains(base: Path, tmp_path: Path) -> None:
    tuned = train(base, tmp_path / "run", epochs=40, early_stopping_patience=2)
    assert tuned.steps < 40 * 15


def test_embeddings_have_length_one_and_keep_the_order(base: Path) -> None:
    texts = ["great phone", "awful", "this camera is a superb camera"]
    vectors = embed(texts, str(base))
    assert vectors.shape == (3, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert embed(texts[::-1], str(base)) == pytest.approx(vectors[::-1], abs=1e-5)
    assert embed([], str(base)).shape == (0, 32)


def test_a_place_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training\.base_model: '.*nowhere' holds no loadable tokenizer"):
        fine_tune(TRAIN, VALIDATION, LABELS, settings(), str(tmp_path / "nowhere"), tmp_path / "run", lambda _: None)
