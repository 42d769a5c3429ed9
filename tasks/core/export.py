"""Turns a fine-tuned classifier into the bundle that is served (see `core/predictor.py`)."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.core.classifier import Classifier
from tasks.core.metrics import fit_temperature
from tasks.core.predictor import BundleManifest, Case, Predictor, pad, write_cases, write_manifest


class _Logits(torch.nn.Module):
    """The classifier with positional tensors in and out, as an exporter traces it."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(input_ids, attention_mask)["logits"]
        return logits


def export_bundle(
    classifier: Classifier,
    tokenizer: Any,
    loop: str,
    validation_texts: Sequence[str],
    validation_gold: npt.NDArray[np.int64],
    folder: Path,
    num_cases: int = 32,
) -> Predictor:
    """Write the bundle, its temperature fitted on the validation rows, and return it loaded.

    `num_cases` validation texts are stored with their probabilities: whoever loads the bundle repeats them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(classifier, folder / "model.onnx")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    logits = checkpoint_logits(classifier, tokenizer, validation_texts)
    manifest = BundleManifest(
        loop=loop,
        labels=classifier.shape.labels,
        temperature=fit_temperature(logits, validation_gold),
        max_tokens=classifier.shape.max_tokens,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    write_manifest(folder, manifest)
    write_cases(folder, [])
    texts = list(validation_texts[:num_cases])
    answers = Predictor.load(folder).predict(texts).probabilities
    write_cases(folder, [Case(text, tuple(map(float, row))) for text, row in zip(texts, answers, strict=True)])
    return Predictor.load(folder)


def export_onnx(classifier: Classifier, path: Path) -> None:
    """Write the ONNX graph: input_ids and attention_mask int64 [B, T] to logits float32 [B, C]."""
    model = _Logits(classifier).cpu().eval()
    # Two different tensors: an exporter that is given one object twice ties both inputs together.
    example = (torch.tensor([[2, 3, 4, 1], [5, 6, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    axes = {0: "batch", 1: "tokens"}
    partial = path.with_suffix(".partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracer warnings and the deprecation of this exporter: parity is checked after
        torch.onnx.export(
            model,
            example,
            str(partial),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    shutil.move(partial, path)


def checkpoint_logits(
    classifier: Classifier, tokenizer: Any, texts: Sequence[str], batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """Return the training checkpoint's own logits float32 [N, C], in the order of the texts."""
    ids = tokenizer(list(texts), truncation=True, max_length=classifier.shape.max_tokens)["input_ids"]
    by_length = np.argsort([len(row) for row in ids], kind="stable")
    logits = np.empty((len(ids), len(classifier.shape.labels)), dtype=np.float32)
    device = next(classifier.parameters()).device
    classifier.eval()
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        tensors = [
            torch.from_numpy(array).to(device) for array in pad([ids[row] for row in rows], tokenizer.pad_token_id or 0)
        ]
        with torch.inference_mode():
            logits[rows] = classifier(*tensors)["logits"].float().cpu().numpy()
    return logits
