"""Turns a fine-tuned classifier into the bundle that is served (see `core/predictor.py`)."""

import contextlib
import copy
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from configs.schema import Serving, Unknown
from tasks.core.adapters import is_adapted, merged
from tasks.core.classifier import Classifier
from tasks.core.engine_choice import EngineLimits, measure_engines
from tasks.core.engines import FILES, REFERENCE
from tasks.core.padding import pad
from tasks.core.predictor import BundleManifest, Case, Predictor, write_cases, write_manifest
from tasks.core.quantisation import quantise
from tasks.core.shared_weights import index_weights
from tasks.core.temperature import fit_temperature
from tasks.core.unknown import Scope, fit_scope, fit_scope_limit

logger = logging.getLogger(__name__)
MAX_SCOPE_ROWS = 10_000


@dataclass(frozen=True)
class Answering:
    """How a bundle is to answer: the loop's section, its limits for an engine, and the threads that serve."""

    serving: Serving
    limits: EngineLimits
    threads: int


class _Answers(torch.nn.Module):
    """The classifier with positional tensors in and out, as an exporter traces it; with a scope, closeness too."""

    whitening: torch.Tensor
    means: torch.Tensor

    def __init__(self, classifier: Classifier, scope: Scope | None) -> None:
        super().__init__()
        self.classifier = classifier
        self.has_scope = scope is not None
        if scope is not None:
            self.register_buffer("whitening", torch.tensor(scope.whitening, dtype=torch.float32))
            self.register_buffer("means", torch.tensor(scope.means, dtype=torch.float32))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        if not self.has_scope:
            return self.classifier(input_ids, attention_mask)["logits"]
        sentence_BD = self.classifier.embed(input_ids, attention_mask)
        from_means_BCD = (sentence_BD @ self.whitening).unsqueeze(1) - self.means
        return self.classifier.head(sentence_BD), -(from_means_BCD**2).sum(2).min(1).values


def export_bundle(
    classifier: Classifier,
    tokenizer: Any,
    loop: str,
    validation_texts: Sequence[str],
    validation_gold: npt.NDArray[np.int64],
    folder: Path,
    num_cases: int = 32,
    unknown: Unknown | None = None,
    train: pd.DataFrame | None = None,
    case_texts: Sequence[str] | None = None,
    answering: Answering | None = None,
) -> Predictor:
    """Write the bundle, its temperature fitted on the validation rows, and return it loaded.

    Where the loop asks for `unknown`, the scope is that of the rows `train` (text, label), and its limit is fitted on
    the validation rows.
    `num_cases` of `case_texts`, the validation texts by default, are stored with the probabilities of onnx-fp32:
    whoever loads the bundle repeats them, whatever its engine. Nothing erases them from it.
    `answering` has the engines measured; without it onnx-fp32 serves unmeasured, and long texts are cut off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.partial"):  # of a run that was killed: all of the folder is kept with the version
        file.unlink()
    scope = None if unknown is None or train is None else _learn_scope(classifier, tokenizer, train)
    shares_weights = answering is not None and answering.serving.share_weights
    export_onnx(classifier, folder / FILES[REFERENCE], scope, keep_adapter=shares_weights)
    index_weights([folder / FILES[REFERENCE]])
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    logits = checkpoint_logits(classifier, tokenizer, validation_texts)
    manifest = BundleManifest(
        loop=loop,
        labels=classifier.shape.labels,
        temperature=fit_temperature(logits, validation_gold),
        max_tokens=classifier.shape.max_tokens,
        pad_token_id=tokenizer.pad_token_id or 0,
        shares_weights=shares_weights,
    )
    if answering is not None:
        overlap = int(answering.serving.window_overlap * manifest.max_tokens)
        manifest = replace(manifest, long_texts=answering.serving.long_texts, window_overlap=overlap)
    write_manifest(folder, manifest)
    write_cases(folder, [])
    if unknown is not None and scope is not None:
        write_manifest(folder, replace(manifest, min_closeness=-math.inf))
        closeness = Predictor.load(folder).measure_closeness(validation_texts)
        limit = fit_scope_limit(closeness, unknown.max_refused_share)
        if limit is None:
            logger.warning(
                "unknown: %d validation rows are too few to fit a limit; every text is known", len(closeness)
            )
        else:
            logger.info("unknown: texts less close than %.1f, as %d of %d validation rows are",
                        limit.min_closeness, limit.refused, limit.n)  # fmt: skip
        write_manifest(folder, replace(manifest, min_closeness=limit.min_closeness if limit else None))
    texts = list((validation_texts if case_texts is None else case_texts)[:num_cases])
    answers = Predictor.load(folder).predict(texts).probabilities
    write_cases(folder, [Case(text, tuple(map(float, row))) for text, row in zip(texts, answers, strict=True)])
    if answering is not None and len(validation_texts):
        _choose_engine(classifier, scope, folder, validation_texts, validation_gold, answering)
    return Predictor.load(folder)


def export_onnx(classifier: Classifier, path: Path, scope: Scope | None = None, keep_adapter: bool = False) -> None:
    """Write the ONNX graph: input_ids and attention_mask int64 [B, T] to logits [B, C]; a scope adds closeness [B].

    An adapter is folded into the layers; kept apart, it leaves the base model's weights as other loops have them. DoRA
    rescales those weights, so it is always folded in.
    """
    encoder = classifier.encoder
    keep_adapter = keep_adapter and is_adapted(encoder) and not encoder.peft_config["default"].use_dora
    with contextlib.nullcontext() if keep_adapter else merged(encoder):
        _export_onnx(classifier, path, scope)


def save_torch(classifier: Classifier, folder: Path, scope: Scope | None = None) -> None:
    """Write the network for torch (see `core/torch_engine.py`), adapters merged."""
    from tasks.core.torch_engine import save_network

    encoder = classifier.encoder
    if is_adapted(encoder):
        encoder = copy.deepcopy(encoder).merge_and_unload()
    tail = {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    if scope is not None:
        tail["whitening"] = torch.tensor(scope.whitening, dtype=torch.float32)
        tail["means"] = torch.tensor(scope.means, dtype=torch.float32)
    save_network(encoder, tail, classifier.shape.pooling, folder)


def _choose_engine(
    classifier: Classifier,
    scope: Scope | None,
    folder: Path,
    texts: Sequence[str],
    gold: npt.NDArray[np.int64],
    answering: Answering,
) -> None:
    graph, int8_graph = folder / FILES[REFERENCE], folder / FILES["onnx-int8"]

    def make_int8() -> None:
        quantise(graph, int8_graph)
        index_weights([graph, int8_graph])

    make = {"onnx-int8": make_int8, "torch-cuda": lambda: save_torch(classifier, folder / FILES["torch-cuda"], scope)}
    serving = answering.serving
    measure_engines(folder, serving.engine, texts, gold, answering.limits, answering.threads, serving.max_batch, make)


def _learn_scope(classifier: Classifier, tokenizer: Any, train: pd.DataFrame) -> Scope:
    rows = train.sample(min(len(train), MAX_SCOPE_ROWS), random_state=0)
    gold = rows["label"].map(list(classifier.shape.labels).index).to_numpy()
    return fit_scope(sentence_vectors(classifier, tokenizer, rows["text"].tolist()), gold)


def _export_onnx(classifier: Classifier, path: Path, scope: Scope | None) -> None:
    model = _Answers(classifier, scope).cpu().eval()
    outputs = ["logits"] if scope is None else ["logits", "closeness"]
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
            output_names=outputs,
            dynamic_axes={"input_ids": axes, "attention_mask": axes, **{name: {0: "batch"} for name in outputs}},
            opset_version=17,
            dynamo=False,
        )
    shutil.move(partial, path)


def checkpoint_logits(
    classifier: Classifier, tokenizer: Any, texts: Sequence[str], batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """Return the training checkpoint's own logits float32 [N, C], in the order of the texts."""
    num_labels = len(classifier.shape.labels)
    return _run_checkpoint(
        classifier, tokenizer, texts, batch_size, num_labels, lambda *tensors: classifier(*tensors)["logits"]
    )


def sentence_vectors(
    classifier: Classifier, tokenizer: Any, texts: Sequence[str], batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """Return the checkpoint's pooled sentence vectors float32 [N, D], in the order of the texts."""
    return _run_checkpoint(classifier, tokenizer, texts, batch_size, classifier.head.in_features, classifier.embed)


def _run_checkpoint(
    classifier: Classifier,
    tokenizer: Any,
    texts: Sequence[str],
    batch_size: int,
    width: int,
    compute: Callable[..., torch.Tensor],
) -> npt.NDArray[np.float32]:
    ids = tokenizer(list(texts), truncation=True, max_length=classifier.shape.max_tokens)["input_ids"]
    by_length = np.argsort([len(row) for row in ids], kind="stable")
    answers = np.empty((len(ids), width), dtype=np.float32)
    device = next(classifier.parameters()).device
    classifier.eval()
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        tensors = [
            torch.from_numpy(array).to(device) for array in pad([ids[row] for row in rows], tokenizer.pad_token_id or 0)
        ]
        with torch.inference_mode():
            answers[rows] = compute(*tensors).float().cpu().numpy()
    return answers
