"""Turns a base model and labelled rows into a classifier; the recipe is data (`configs/schema.py: Training`)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from configs.schema import Training
from tasks.core.checkpoints import keep_complete_checkpoints
from tasks.core.classifier import Classifier, ClassifierShape, load_encoder, load_tokenizer
from tasks.core.encoding import Collator, encode_rows
from tasks.core.optimizer import make_optimizer
from tasks.core.precision import choose_precision
from tasks.core.trainer import (
    ClassifierTrainer,
    Progress,
    Reporter,
    make_arguments,
    make_early_stopping,
    measure,
)


@dataclass(frozen=True)
class FineTuned:
    """The best classifier by validation macro-F1, and how it came about."""

    classifier: Classifier
    tokenizer: Any
    seconds: float
    steps: int
    resumed_from: int
    device: str
    precision: str
    validation_macro_f1: float


def fine_tune(
    train: pd.DataFrame,
    validation: pd.DataFrame,
    labels: Sequence[str],
    training: Training,
    base_model: str,
    checkpoints: Path,
    on_progress: Callable[[Progress], None],
) -> FineTuned:
    """Fine-tune on `train`, choose the best evaluation on `validation`; continue a run that was killed.

    Both frames need `text`, `label` and `rating`. `checkpoints` is this run's own folder.
    """
    set_seed(training.seed)
    tokenizer = load_tokenizer(base_model)
    has_rating_head = training.rating_weight > 0 and bool(train["rating"].notna().any())
    shape = ClassifierShape(tuple(labels), training.pooling, training.max_tokens, has_rating_head)
    classifier = _build(base_model, shape, training)
    if training.class_weights == "balanced":
        classifier.class_weights = _balanced_weights(train["label"], labels)
    encoded = [encode_rows(frame, tokenizer, labels, training.max_tokens) for frame in (train, validation)]
    collator = Collator(tokenizer.pad_token_id or 0)
    precision = choose_precision(classifier, collator(encoded[0][: training.batch_size]), training.precision)
    resume = keep_complete_checkpoints(checkpoints)
    trainer = ClassifierTrainer(
        model=classifier,
        args=make_arguments(training, checkpoints, len(train), precision),
        train_dataset=encoded[0],
        eval_dataset=encoded[1],
        data_collator=collator,
        compute_metrics=measure,
        callbacks=[Reporter(on_progress), *make_early_stopping(training)],
        optimizers=(make_optimizer(classifier, training), None),
    )
    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    # accelerate leaves its mixed-precision wrapper around forward; an export would trace it.
    classifier = trainer.accelerator.unwrap_model(classifier, keep_fp32_wrapper=False)
    return FineTuned(
        classifier=_merged(classifier).eval().float(),
        tokenizer=tokenizer,
        seconds=time.monotonic() - started,
        steps=trainer.state.global_step,
        resumed_from=int(resume.name.split("-")[1]) if resume else 0,
        device=str(trainer.args.device),
        precision=precision,
        validation_macro_f1=float(trainer.state.best_metric or 0.0),
    )


def _build(base_model: str, shape: ClassifierShape, training: Training) -> Classifier:
    encoder = load_encoder(base_model)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = training.dropout
    if training.method == "lora":
        from peft import LoraConfig, get_peft_model

        lora = training.lora
        encoder = get_peft_model(
            encoder,
            LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear"),
        )
    elif training.freeze_embeddings:
        for parameter in encoder.get_input_embeddings().parameters():
            parameter.requires_grad_(False)
    classifier = Classifier(encoder, shape, training.dropout)
    classifier.rating_weight = training.rating_weight
    return classifier


def _merged(classifier: Classifier) -> Classifier:
    """Fold a LoRA update into the encoder's own weights: serving needs no peft and pays nothing for it."""
    if hasattr(classifier.encoder, "merge_and_unload"):
        classifier.encoder = classifier.encoder.merge_and_unload()
    return classifier


def _balanced_weights(labels: pd.Series, names: Sequence[str]) -> Tensor:
    """Return weights inversely proportional to class frequency, with mean 1 over rows."""
    counts = labels.value_counts().reindex(list(names), fill_value=0).to_numpy(dtype=float)
    return torch.tensor(counts.sum() / (len(names) * np.maximum(counts, 1)), dtype=torch.float32)
