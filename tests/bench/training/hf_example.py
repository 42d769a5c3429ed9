"""The usual recipe, as the text-classification example of Hugging Face's transformers gives it.

`examples/pytorch/text-classification/run_classification.py`: AutoModelForSequenceClassification, every text padded to
128 tokens (`--pad_to_max_length`, `--max_seq_length 128`), batches of 8, learning rate 5e-5 with linear decay, 3
epochs, fp32, the Trainer's own optimizer, and the last step's weights. Two additions: it evaluates as often per epoch
as the presets beside it, to have a curve to compare, and it never saves, which only makes it faster.
"""

import tempfile
import time
from typing import Any

import pandas as pd
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from tasks.core.trainer import measure
from tests.bench.training.problems import Problem
from tests.bench.training.units import Record

MAX_TOKENS = 128
BATCH_SIZE = 8


class Stopwatch(TrainerCallback):  # type: ignore[misc]  # transformers ships no type information
    """Notes when each evaluation ended, and what it found."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.cpu_started = time.process_time()
        self.timeline: list[tuple[float, float]] = []
        self.cpu_timeline: list[tuple[float, float]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        self.timeline.append((time.perf_counter() - self.started, metrics["eval_macro_f1"]))
        self.cpu_timeline.append((time.process_time() - self.cpu_started, metrics["eval_macro_f1"]))


def run_example(problem: Problem, base_model: str, seed: int, evaluations_per_epoch: int, epochs: float = 3) -> Record:
    """Return what `run_evertune` returns, for the example's recipe; its last evaluation is of the finished model."""
    logging.set_verbosity_error()  # else it reports, each time, that the head is new
    logging.disable_progress_bar()
    stopwatch = Stopwatch()
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    model = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=len(problem.labels))
    splits = [_encode(problem, rows, tokenizer) for rows in (problem.train, problem.validation, problem.test)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=_arguments(folder, len(splits[0]), seed, evaluations_per_epoch, epochs),
            train_dataset=splits[0],
            eval_dataset=splits[1],
            data_collator=default_data_collator,
            compute_metrics=measure,
            callbacks=[stopwatch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        if trainer.state.global_step % trainer.state.eval_steps:
            trainer.evaluate()
        answers = trainer.predict(splits[2]).predictions.argmax(-1)
    return {
        "answers": answers.tolist(),
        "validation_macro_f1": stopwatch.timeline[-1][1],
        "seconds": stopwatch.timeline[-1][0],
        "timeline": stopwatch.timeline,
        "cpu_seconds": stopwatch.cpu_timeline[-1][0],
        "cpu_timeline": stopwatch.cpu_timeline,
        "steps": trainer.state.global_step,
        "precision": "fp32",
    }


def _arguments(folder: str, num_rows: int, seed: int, evaluations_per_epoch: int, epochs: float) -> TrainingArguments:
    steps_per_epoch = -(-num_rows // BATCH_SIZE)
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        learning_rate=5e-5,
        num_train_epochs=epochs,
        seed=seed,
        eval_strategy="steps",
        eval_steps=max(1, steps_per_epoch // evaluations_per_epoch),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _encode(problem: Problem, rows: pd.DataFrame, tokenizer: Any) -> list[dict[str, Any]]:
    length = min(MAX_TOKENS, tokenizer.model_max_length)
    encoded = tokenizer(rows["text"].tolist(), padding="max_length", max_length=length, truncation=True)
    numbers = problem.numbers(rows).tolist()
    return [
        {**{name: column[row] for name, column in encoded.items()}, "labels": number}
        for row, number in enumerate(numbers)
    ]
