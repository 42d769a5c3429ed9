"""Each part of the recipe, on a tiny real encoder: it does what its key says, and a killed run repeats it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from configs.schema import Training
from tasks.core.averaging import AVERAGE, WeightAverage
from tasks.core.classifier import Classifier, ClassifierShape, load_classifier, load_encoder, save_classifier
from tasks.core.compiling import compiled, should_compile
from tasks.core.export import checkpoint_logits
from tasks.core.few_shot import DRAWN_TOGETHER
from tasks.core.fine_tuning import FineTuned, fine_tune
from tasks.core.precision import settle_precision
from tasks.core.trainer import Progress
from tests.support.tiny_base import make_rows, write_tiny_base

LABELS = ["negative", "positive"]
TRAIN, VALIDATION, TEST = make_rows(120, seed=1), make_rows(60, seed=2), make_rows(90, seed=3)
MANY = make_rows(240, seed=1)


def settings(**changes: Any) -> Training:
    plain: dict[str, Any] = {
        "base_model": "unused",
        "epochs": 4,
        "learning_rate": 3e-3,
        "head_learning_rate": 1e-2,
        "precision": "fp32",
        "early_stopping_patience": None,
    }
    return Training.model_validate(plain | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def train(
    base: Path,
    folder: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
    rows: pd.DataFrame = TRAIN,
    start: Path | None = None,
    **changes: Any,
) -> FineTuned:
    return fine_tune(rows, VALIDATION, LABELS, settings(**changes), str(base), folder, on_progress, start)


def logits_of(tuned: FineTuned, rows: pd.DataFrame = TEST) -> np.ndarray:
    return checkpoint_logits(tuned.classifier, tuned.tokenizer, rows["text"].tolist())


def accuracy_of(tuned: FineTuned, rows: pd.DataFrame = TEST) -> float:
    return float((np.array(LABELS)[logits_of(tuned, rows).argmax(1)] == rows["label"].to_numpy()).mean())


class Killed(BaseException):
    pass


def die_at(step: int, metric: str = "") -> Callable[[Progress], None]:
    def die(progress: Progress) -> None:
        if progress.step >= step and (not metric or metric in progress.metrics):
            raise Killed

    return die


RECIPE: dict[str, Any] = {
    "layer_decay": 0.7,
    "label_smoothing": 0.1,
    "dropout": 0.1,
    "average_weights": 0.9,
    "gradient_accumulation": 2,
    "batch_size": 8,
    "freeze_embeddings": False,
    "augmentation": {"copies": 1},
    "epochs": 6,
}


def test_a_killed_run_with_every_part_of_the_recipe_repeats_the_whole_one(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", die_at(40), **RECIPE)
    resumed = train(base, tmp_path / "killed", **RECIPE)
    whole = train(base, tmp_path / "whole", **RECIPE)
    assert resumed.resumed_from > 0
    assert np.abs(logits_of(resumed) - logits_of(whole)).max() < 1e-4
    assert accuracy_of(whole) > 0.9
    assert next((tmp_path / "whole").glob(f"checkpoint-*/{AVERAGE}"), None) is not None


def test_the_average_is_what_is_evaluated_and_kept(base: Path, tmp_path: Path) -> None:
    classifier = Classifier(load_encoder(str(base)), ClassifierShape(("a", "b"), "mean", 16, False))
    average = WeightAverage(classifier, 0.5)
    before = classifier.head.weight.detach().clone()
    with torch.no_grad():
        classifier.head.weight += 1.0
    average.update(step=100)
    with average.in_place():
        assert torch.allclose(classifier.head.weight, before + 0.5)
    assert torch.allclose(classifier.head.weight, before + 1.0)
    average.save(tmp_path)
    average.update(step=100)
    average.load(tmp_path)
    with average.in_place():
        assert torch.allclose(classifier.head.weight, before + 0.5)


def test_patience_left_survives_a_kill(base: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"epochs": 30, "early_stopping_patience": 3, "learning_rate": 1e-2}
    whole = train(base, tmp_path / "whole", **recipe)
    assert whole.steps < 30 * 8
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", die_at(whole.steps - 3), **recipe)
    resumed = train(base, tmp_path / "killed", **recipe)
    assert resumed.resumed_from > 0
    assert resumed.steps == whole.steps
    assert np.abs(logits_of(resumed) - logits_of(whole)).max() < 1e-4


FEW = pd.concat([rows.head(16) for _, rows in make_rows(80, seed=7).groupby("label")], ignore_index=True)
PAIRS: dict[str, Any] = {
    "few_shot": {"mode": "auto", "learning_rate": 3e-3, "batch_size": 16, "epochs": 5},
    "epochs": 2,
}


def test_few_rows_go_through_pairs_first_and_a_kill_there_costs_nothing(base: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    whole = train(base, tmp_path / "whole", seen.append, rows=FEW, **PAIRS)
    drawn = [progress.metrics["contrastive_loss"] for progress in seen if "contrastive_loss" in progress.metrics]
    assert drawn[-1] < drawn[0] / 2
    assert (tmp_path / "whole" / "pairs" / DRAWN_TOGETHER).is_file()
    assert accuracy_of(whole, FEW) > 0.9
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", die_at(60, "contrastive_loss"), rows=FEW, **PAIRS)
    assert not (tmp_path / "killed" / "pairs" / DRAWN_TOGETHER).is_file()
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", die_at(1, "eval_macro_f1"), rows=FEW, **PAIRS)
    assert (tmp_path / "killed" / "pairs" / DRAWN_TOGETHER).is_file()
    resumed = train(base, tmp_path / "killed", rows=FEW, **PAIRS)
    assert np.abs(logits_of(resumed) - logits_of(whole)).max() < 1e-4


def test_copies_do_not_make_few_rows_many(base: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "few_shot": {"mode": "auto", "epochs": 0.1},
        "augmentation": {"copies": 2},
        "max_steps": 1,
    }
    train(base, tmp_path / "run", rows=FEW, **recipe)
    assert (tmp_path / "run" / "pairs" / DRAWN_TOGETHER).is_file()


def test_many_rows_and_runs_that_go_on_need_no_pairs(base: Path, tmp_path: Path) -> None:
    auto: dict[str, Any] = {"few_shot": {"mode": "auto"}, "epochs": 1}
    first = train(base, tmp_path / "run", **auto)
    assert not (tmp_path / "run" / "pairs").exists()
    save_classifier(first.classifier, first.tokenizer, tmp_path / "saved")
    train(base, tmp_path / "on", rows=FEW, start=tmp_path / "saved", **auto)
    assert not (tmp_path / "on" / "pairs").exists(), "few new rows would give the champion's head anew"


def test_a_run_goes_on_from_a_saved_classifier(base: Path, tmp_path: Path) -> None:
    first = train(base, tmp_path / "first")
    save_classifier(first.classifier, first.tokenizer, tmp_path / "saved")
    barely: dict[str, Any] = {"max_steps": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9}
    again = train(base, tmp_path / "again", start=tmp_path / "saved", **barely)
    assert np.abs(logits_of(again) - logits_of(first)).max() < 1e-4
    turned = fine_tune(
        TRAIN, VALIDATION, LABELS[::-1], settings(**barely), str(base), tmp_path / "turned", lambda _: None,
        start=tmp_path / "saved",
    )  # fmt: skip
    assert np.abs(logits_of(turned)[:, ::-1] - logits_of(first)).max() < 1e-4
    other = fine_tune(
        TRAIN, VALIDATION, ["negative", "positive", "mixed"], settings(**barely), str(base), tmp_path / "other",
        lambda _: None, start=tmp_path / "saved",
    )  # fmt: skip
    assert logits_of(other).shape == (len(TEST), 3)


def test_rows_of_weight_zero_teach_nothing(base: Path, tmp_path: Path) -> None:
    wrong = MANY.assign(label=MANY["label"].map({"positive": "negative", "negative": "positive"}), weight=0.0)
    rows = pd.concat([MANY.assign(weight=1.0), wrong], ignore_index=True)
    assert accuracy_of(train(base, tmp_path / "run", rows=rows, epochs=8)) > 0.9


def test_soft_labels_take_the_place_of_labels(base: Path, tmp_path: Path) -> None:
    """Wrong labels with the right shares beside them: the shares win; rows without shares keep their label."""
    wrong = MANY["label"].map({"positive": "negative", "negative": "positive"})
    shares = [json.dumps([0.9, 0.1] if label == "negative" else [0.1, 0.9]) for label in MANY["label"]]
    soft = MANY.assign(label=wrong, soft_labels=shares)
    rows = pd.concat([soft, MANY.head(20).assign(soft_labels="")], ignore_index=True)
    tuned = train(base, tmp_path / "run", rows=rows, epochs=8)
    assert accuracy_of(tuned) > 0.9
    probabilities = torch.softmax(torch.tensor(logits_of(tuned)), -1).max(-1).values
    assert 0.8 < float(probabilities.mean()) < 0.97  # calibrated to the shares: far from 1


def test_rows_need_no_rating(base: Path, tmp_path: Path) -> None:
    rows = TRAIN[["text", "label"]]
    tuned = fine_tune(
        rows, VALIDATION[["text", "label"]], LABELS, settings(rating_weight=0.5), str(base), tmp_path / "run",
        lambda _: None,
    )  # fmt: skip
    assert tuned.classifier.rating_head is None


def test_frozen_layers_keep_their_weights(base: Path, tmp_path: Path) -> None:
    before = load_encoder(str(base)).state_dict()
    after = train(base, tmp_path / "run", frozen_layers=1, epochs=1).classifier.encoder.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed)


def make_classifier(base: Path, **attributes: object) -> tuple[Classifier, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    classifier = Classifier(load_encoder(str(base)), ClassifierShape(("a", "b", "c"), "mean", 16, False))
    for name, value in attributes.items():
        setattr(classifier, name, value)
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
    return classifier, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 2])}


def test_the_loss_is_what_the_formulas_say(base: Path) -> None:
    classifier, batch = make_classifier(base)
    classifier.eval()
    logits = classifier(**batch)["logits"].log_softmax(-1)
    hard = -logits[[0, 1], [0, 2]]
    assert classifier(**batch)["loss"].item() == pytest.approx(hard.mean().item(), abs=1e-6)
    weighted = classifier(**batch, weights=torch.tensor([1.0, 0.25]))["loss"].item()
    assert weighted == pytest.approx(((hard[0] + 0.25 * hard[1]) / 2).item(), abs=1e-6)
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    soft = classifier(**batch, shares=shares)["loss"].item()
    assert soft == pytest.approx((-(shares * logits).sum(-1)).mean().item(), abs=1e-6)
    classifier.class_weights = torch.tensor([2.0, 1.0, 0.5])
    balanced = classifier(**batch)["loss"].item()
    assert balanced == pytest.approx(((2 * hard[0] + 0.5 * hard[1]) / 2).item(), abs=1e-6)
    mixed = classifier(**batch, shares=shares)["loss"].item()
    expected = (-(shares * logits).sum(-1) * torch.tensor([1.5, 0.5])).mean().item()
    assert mixed == pytest.approx(expected, abs=1e-6)


def test_smoothing_acts_in_training_only(base: Path) -> None:
    plain, batch = make_classifier(base)
    smoothed, _ = make_classifier(base, label_smoothing=0.3)
    assert smoothed.eval()(**batch)["loss"].item() == pytest.approx(plain.eval()(**batch)["loss"].item())
    for module in (plain, smoothed):
        module.train()
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    logits = plain(**batch)["logits"].log_softmax(-1)
    expected = -0.7 * logits[[0, 1], [0, 2]].mean() - 0.3 * logits.mean()
    assert smoothed(**batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("wanted", "num_steps", "on_cpu"), [("on", 10, True), ("off", 10**6, False), ("auto", 10**6, False)]
)
def test_compiling_is_left_alone_where_it_does_not_pay(wanted: str, num_steps: int, on_cpu: bool) -> None:
    if not torch.cuda.is_available():
        assert should_compile(settings(compile=wanted), num_steps) is on_cpu


def test_an_encoder_is_compiled_for_the_run_only(base: Path) -> None:
    classifier, batch = make_classifier(base)
    classifier.eval()
    plain, names = classifier(**batch)["logits"], set(classifier.state_dict())
    torch._dynamo.utils.counters.clear()
    with compiled(classifier.encoder, True, backend="eager"):
        inside = classifier(**batch)["logits"]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
        assert set(classifier.state_dict()) == names
    torch._dynamo.utils.counters.clear()
    assert torch.allclose(classifier(**batch)["logits"], plain, atol=1e-6)
    assert torch.allclose(inside, plain, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


def test_a_run_that_goes_on_keeps_the_arithmetic_it_began_with(base: Path, tmp_path: Path) -> None:
    classifier, batch = make_classifier(base)
    note = tmp_path / "run" / "precision"
    assert settle_precision(classifier, batch, "bf16", note) == "bf16"
    assert settle_precision(classifier, batch, "auto", note) == "bf16"
    assert settle_precision(classifier, batch, "fp32", note) == "fp32"


SOUP: dict[str, Any] = {"soup": 2, "epochs": 3, "evaluations_per_epoch": 1}


def test_a_soup_is_the_mean_of_its_members_and_goes_on_after_a_kill(base: Path, tmp_path: Path) -> None:
    steps = settings(**SOUP).epochs * 8  # 120 rows in batches of 16
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", die_at(int(1.5 * steps)), **SOUP)
    first = tmp_path / "killed" / "member-0" / "done" / "member.json"
    written = first.stat().st_mtime_ns
    seen: list[Progress] = []
    soup = train(base, tmp_path / "killed", seen.append, **SOUP)
    assert first.stat().st_mtime_ns == written
    assert (seen[-1].step, seen[-1].num_steps) == (2 * steps, 2 * steps)
    members = [load_classifier(tmp_path / "killed" / f"member-{number}" / "done") for number in (0, 1)]
    means = (members[0].head.weight + members[1].head.weight) / 2
    assert not torch.allclose(members[0].head.weight, members[1].head.weight)
    assert torch.allclose(soup.classifier.head.weight, means, atol=1e-6)
    whole = train(base, tmp_path / "whole", **SOUP)
    assert np.abs(logits_of(soup) - logits_of(whole)).max() < 1e-4


def test_a_soup_worse_than_its_members_is_not_served(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.core.fine_tuning.measure_macro_f1", lambda *_: 0.0)
    tuned = train(base, tmp_path / "run", **SOUP)
    members = [load_classifier(tmp_path / "run" / f"member-{number}" / "done") for number in (0, 1)]
    assert any(torch.allclose(tuned.classifier.head.weight, member.head.weight, atol=1e-6) for member in members)
    assert tuned.validation_macro_f1 > 0.0
