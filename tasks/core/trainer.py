"""The Trainer of transformers, as this house sets it up: one code path for CPUs and GPUs.

Batches hold texts of similar length and pad to their longest, which spares most of the work of padding to 128 tokens.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import EarlyStoppingCallback

from configs.schema import Training
from tasks.core.averaging import WeightAverage
from tasks.core.batches import LengthGroupedBatches, count_batches
from tasks.core.checkpoints import COMPLETE
from tasks.core.metrics import confusion_matrix, macro_f1
from tasks.core.processes import add_up, rank, wait_for_all, world_size


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; `metrics` holds what was measured at this step."""

    step: int
    num_steps: int
    seconds_left: float
    metrics: dict[str, float]


class ClassifierTrainer(Trainer):  # type: ignore[misc]  # transformers ships no type information
    """A Trainer whose batches hold texts of similar length, in an order that a resumed run repeats.

    With an average of the weights, that average is evaluated and becomes the final model; the weights themselves go on
    training, and both are in every checkpoint.
    """

    def __init__(self, *args: Any, rows_per_batch: int, average: WeightAverage | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows_per_batch = rows_per_batch  # over all processes
        self._average = average

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss; in training, such that the average over processes counts every row of a batch alike."""
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if not model.training or world_size() == 1:
            return found
        num_rows = len(inputs["labels"])
        return found * (num_rows * world_size() / add_up(num_rows, found.device))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the average where there is one, else the weights."""
        with self._average.in_place() if self._average else nullcontext():
            return cast(dict[str, float], super().evaluate(*args, **kwargs))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights, and their average beside them."""
        super().save_model(output_dir, _internal_call)
        if self._average and self.args.should_save:
            self._average.save(Path(output_dir or self.args.output_dir))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self._average:
            self._average.load_into_model(Path(self.state.best_model_checkpoint))

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return this process's share of every batch."""
        args = self.args
        batches = LengthGroupedBatches(
            self.train_dataset.lengths, self._rows_per_batch, args.seed, args.world_size, args.process_index
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=args.dataloader_pin_memory,
        )
        # accelerate would deal whole batches out to the processes; these are shares already
        prepared = prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True)
        return cast("DataLoader[dict[str, Any]]", prepared)


class Averaging(TrainerCallback):  # type: ignore[misc]  # transformers ships no type information
    """Moves the average towards the weights after every step."""

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take in the step's weights."""
        self._average.update(state.global_step)


class Patience(EarlyStoppingCallback):  # type: ignore[misc]  # transformers ships no type information
    """Ends a run that no longer gets better; one resumed after its last evaluation ends at once."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See whether the checkpoint's run had ended."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers ships no type information
    """Passes each measurement on, and marks checkpoints that are complete."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._started = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock; a resumed run starts it at its step."""
        self._started = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Pass on what was measured; one process speaks for all."""
        if rank() > 0:
            return
        started, first_step = self._started
        per_step = (time.monotonic() - started) / max(1, state.global_step - first_step)
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        left = (state.max_steps - state.global_step) * per_step
        self._on_progress(Progress(state.global_step, state.max_steps, left, numbers))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint whole, once every process has written its part."""
        wait_for_all()
        if rank() > 0:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / COMPLETE).write_text(json.dumps({"step": state.global_step}), encoding="utf-8")


def steps_per_epoch(training: Training, num_rows: int) -> int:
    """Return how often the weights change while every row is seen once."""
    return math.ceil(count_batches(num_rows, training.batch_size, world_size()) / training.gradient_accumulation)


def make_arguments(training: Training, checkpoints: Path, num_rows: int, precision: str) -> TrainingArguments:
    """Return the recipe as the Trainer takes it."""
    every = max(1, steps_per_epoch(training, num_rows) // training.evaluations_per_epoch)
    if training.max_steps:
        every = min(every, training.max_steps)
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=max(1, training.batch_size // world_size()),
        per_device_eval_batch_size=max(32, training.batch_size),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_share,
        weight_decay=training.weight_decay,
        gradient_accumulation_steps=training.gradient_accumulation,
        bf16=precision == "bf16",
        seed=training.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, min(10, every)),
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # the patience that was left
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
    return [Patience(early_stopping_patience=patience)] if patience else []


def measure(prediction: Any) -> dict[str, float]:
    """Return macro-F1 and accuracy of an evaluation."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    labels = prediction.label_ids[0] if isinstance(prediction.label_ids, tuple) else prediction.label_ids
    counts = confusion_matrix(labels, logits.argmax(-1), logits.shape[-1])
    return {"macro_f1": float(macro_f1(counts)), "accuracy": float(np.trace(counts) / counts.sum())}
