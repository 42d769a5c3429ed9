"""Turns a base model into a classifier with the Trainer of transformers, so that one code path serves CPU and GPUs.

Batches hold texts of similar length and pad to their longest, which spares most of the work of padding to 128 tokens.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from configs.schema import Training
from tasks.core.classifier import Classifier, ClassifierShape, load_encoder, load_tokenizer
from tasks.core.metrics import confusion_matrix, macro_f1
from tasks.core.precision import choose_precision

COMPLETE = "complete"  # marks a checkpoint whose files are all written


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; `metrics` holds what was measured at this step."""

    step: int
    num_steps: int
    seconds_left: float
    metrics: dict[str, float]


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
    collator = _Collator(tokenizer.pad_token_id or 0)
    precision = choose_precision(classifier, collator(encoded[0][: training.batch_size]), training.precision)
    resume = keep_complete_checkpoints(checkpoints)
    trainer = _Trainer(
        model=classifier,
        args=_arguments(training, checkpoints, len(train), precision),
        train_dataset=encoded[0],
        eval_dataset=encoded[1],
        data_collator=collator,
        compute_metrics=_measure,
        callbacks=[_Reporter(on_progress), *_early_stopping(training)],
        optimizers=(_optimizer(classifier, training), None),
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


def encode_rows(frame: pd.DataFrame, tokenizer: Any, labels: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """Return one dict per row: input_ids (no padding), labels, ratings (NaN where unknown)."""
    ids = tokenizer(frame["text"].tolist(), truncation=True, max_length=max_tokens)["input_ids"]
    classes = [labels.index(label) for label in frame["label"]]
    ratings = frame["rating"].astype("float32").tolist()
    rows = zip(ids, classes, ratings, strict=True)
    return [{"input_ids": row, "labels": label, "ratings": rating} for row, label, rating in rows]


def keep_complete_checkpoints(folder: Path) -> Path | None:
    """Remove checkpoints that a kill left half-written; return the newest complete one, or None.

    The Trainer rotates by step number: a broken checkpoint of a high number would push out the good ones.
    """
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


class _LengthGroupedSampler(Sampler[int]):
    """Batches of similar length in an order that seed and epoch alone decide.

    The Trainer's own sampler draws from the global random state, so a run resumed within an epoch would see some rows
    twice and others never.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; accelerate calls this."""
        self._epoch = epoch


class _Trainer(Trainer):  # type: ignore[misc]  # transformers ships no type information
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(row["input_ids"]) for row in self.train_dataset]
        return _LengthGroupedSampler(lengths, self.args.train_batch_size, self.args.seed)


@dataclass(frozen=True)
class _Collator:
    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), longest), self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for position, row in enumerate(rows):
            input_ids[position, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            attention_mask[position, : len(row["input_ids"])] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": torch.tensor([row["labels"] for row in rows]),
            "ratings": torch.tensor([row["ratings"] for row in rows], dtype=torch.float32),
        }


class _Reporter(TrainerCallback):  # type: ignore[misc]  # transformers ships no type information
    """Passes each measurement on, and marks checkpoints that are complete."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._started = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        started, first_step = self._started
        per_step = (time.monotonic() - started) / max(1, state.global_step - first_step)
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        left = (state.max_steps - state.global_step) * per_step
        self._on_progress(Progress(state.global_step, state.max_steps, left, numbers))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / COMPLETE).write_text(json.dumps({"step": state.global_step}), encoding="utf-8")


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


def _arguments(training: Training, checkpoints: Path, num_rows: int, precision: str) -> TrainingArguments:
    steps_per_epoch = math.ceil(num_rows / training.batch_size)
    every = max(1, steps_per_epoch // training.evaluations_per_epoch)
    if training.max_steps:
        every = min(every, training.max_steps)
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=max(32, training.batch_size),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_share,
        weight_decay=training.weight_decay,
        bf16=precision == "bf16",
        seed=training.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, min(10, every)),
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


def _early_stopping(training: Training) -> list[TrainerCallback]:
    patience = training.early_stopping_patience
    return [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []


def _optimizer(classifier: Classifier, training: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); the new heads learn faster than the pretrained encoder."""
    is_head = {id(parameter) for name, parameter in classifier.named_parameters() if not name.startswith("encoder.")}
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in is_head]
    plain = [p for p in trained if p.ndim <= 1 and id(p) not in is_head]
    heads = [p for p in trained if id(p) in is_head]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": training.weight_decay},
            {"params": plain, "weight_decay": 0.0},
            {"params": heads, "weight_decay": 0.0, "lr": training.head_learning_rate},
        ],
        lr=training.learning_rate,
    )


def _measure(prediction: Any) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    labels = prediction.label_ids[0] if isinstance(prediction.label_ids, tuple) else prediction.label_ids
    counts = confusion_matrix(labels, logits.argmax(-1), logits.shape[-1])
    return {"macro_f1": float(macro_f1(counts)), "accuracy": float(np.trace(counts) / counts.sum())}


def _balanced_weights(labels: pd.Series, names: Sequence[str]) -> Tensor:
    """Return weights inversely proportional to class frequency, with mean 1 over rows."""
    counts = labels.value_counts().reindex(list(names), fill_value=0).to_numpy(dtype=float)
    return torch.tensor(counts.sum() / (len(names) * np.maximum(counts, 1)), dtype=torch.float32)
