"""The Trainer of transformers, as this house sets it up: one code path for CPUs and GPUs.

Batches hold texts of similar length and pad to their longest, which spares most of the work of padding to 128 tokens.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import EarlyStoppingCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from configs.schema import Training
from tasks.core.checkpoints import COMPLETE
from tasks.core.metrics import confusion_matrix, macro_f1


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; `metrics` holds what was measured at this step."""

    step: int
    num_steps: int
    seconds_left: float
    metrics: dict[str, float]


class ClassifierTrainer(Trainer):  # type: ignore[misc]  # transformers ships no type information
    """A Trainer whose batches hold texts of similar length, in an order that a resumed run repeats."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [len(row["input_ids"]) for row in self.train_dataset]
        return _LengthGroupedSampler(lengths, self.args.train_batch_size, self.args.seed)


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


class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers ships no type information
    """Passes each measurement on, and marks checkpoints that are complete."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._started = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock; a resumed run starts it at its step."""
        self._started = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Pass on what was measured."""
        started, first_step = self._started
        per_step = (time.monotonic() - started) / max(1, state.global_step - first_step)
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        left = (state.max_steps - state.global_step) * per_step
        self._on_progress(Progress(state.global_step, state.max_steps, left, numbers))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint whole."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / COMPLETE).write_text(json.dumps({"step": state.global_step}), encoding="utf-8")


def make_arguments(training: Training, checkpoints: Path, num_rows: int, precision: str) -> TrainingArguments:
    """Return the recipe as the Trainer takes it."""
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


def make_early_stopping(training: Training) -> list[TrainerCallback]:
    """Return the callback that ends a run which no longer gets better, if the recipe asks for it."""
    patience = training.early_stopping_patience
    return [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []


def measure(prediction: Any) -> dict[str, float]:
    """Return macro-F1 and accuracy of an evaluation."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    labels = prediction.label_ids[0] if isinstance(prediction.label_ids, tuple) else prediction.label_ids
    counts = confusion_matrix(labels, logits.argmax(-1), logits.shape[-1])
    return {"macro_f1": float(macro_f1(counts)), "accuracy": float(np.trace(counts) / counts.sum())}
