"""One trial of a search: fine-tunes with each seed and answers the validation rows. Needs nothing but its job.

What a seed gave is kept in the trial's folder until the trial ends, so a trial whose process was killed goes on.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import Training
from tasks.core.errors import TransientError

if TYPE_CHECKING:
    from tasks.core.fine_tuning import FineTuned


class TrialStoppedError(Exception):
    """A trial was told to stop."""


class TrialFailedError(Exception):
    """A trial could not be finished; the message says why. The search goes on."""


@dataclass(frozen=True)
class Job:
    """What a trial is to do; `folder` is its own."""

    number: int
    training: Training
    base_model: str
    labels: tuple[str, ...]
    seeds: int
    train: str  # Parquet files
    validation: str
    folder: str
    start: str | None = None  # weights that training goes on from
    cache: str | None = None  # of encoded rows

    def to_record(self) -> dict[str, Any]:
        """Return the job as JSON can hold it."""
        return {**asdict(self), "training": self.training.model_dump(mode="json", by_alias=True)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Job":
        """Return the job of a record."""
        training = Training.model_validate(record["training"])
        return cls(**{**record, "training": training, "labels": tuple(record["labels"])})


@dataclass(frozen=True)
class Report:
    """Where a trial stands: its seed (counted from 0), steps of this seed, and what was measured."""

    seed: int
    step: int
    num_steps: int
    seconds_left: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a trial gave: macro-F1 on the validation rows and its answers to them, one list of classes per seed."""

    values: list[float]
    predicted: list[list[int]]
    device: str

    @property
    def value(self) -> float:
        """Return the mean over seeds."""
        return sum(self.values) / len(self.values)


Tell = Callable[[Report], bool]  # False: stop
RunTrial = Callable[[Job, Tell], Outcome]


def run_trial(job: Job, tell: Tell) -> Outcome:
    """Run a trial in this process; raises TrialStoppedError when `tell` says so."""
    done = [_run_seed(job, seed, tell) for seed in range(job.seeds)]
    return Outcome([one["macro_f1"] for one in done], [one["predicted"] for one in done], str(done[-1]["device"]))


def run_and_name_failure(job: Job, tell: Tell) -> Outcome:
    """Run a trial in this process; data or a recipe that cannot work, or too little memory, is a TrialFailedError."""
    try:
        return run_trial(job, tell)
    except TransientError:  # what `tell` writes to is away: that is not the trial's fault
        raise
    except (ValueError, RuntimeError, MemoryError) as error:  # torch's out-of-memory errors are RuntimeErrors
        told = (str(error).strip().splitlines() or ["no message"])[0]
        raise TrialFailedError(f"{type(error).__name__}: {told}") from error


def _run_seed(job: Job, seed: int, tell: Tell) -> dict[str, Any]:
    from tasks.core.fine_tuning import fine_tune

    folder = Path(job.folder)
    kept = folder / f"seed-{seed}.json"
    if kept.is_file():
        known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return known

    def on_progress(progress: Any) -> None:
        if not tell(Report(seed, progress.step, progress.num_steps, progress.seconds_left, dict(progress.metrics))):
            raise TrialStoppedError

    checkpoints = folder / f"seed-{seed}"
    checkpoints.mkdir(parents=True, exist_ok=True)
    training = job.training.model_copy(update={"seed": job.training.seed + seed})
    tuned = fine_tune(
        Path(job.train),
        Path(job.validation),
        job.labels,
        training,
        job.base_model,
        checkpoints,
        on_progress,
        start=Path(job.start) if job.start else None,
        cache=Path(job.cache) if job.cache else None,
    )
    result = _answer(tuned, job) | {"device": tuned.device}
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(kept)
    shutil.rmtree(checkpoints)
    return result


def _answer(tuned: "FineTuned", job: Job) -> dict[str, Any]:
    """Return the classifier's classes for the validation rows, and the macro-F1 of these very answers."""
    import numpy as np
    import torch

    from tasks.core.encoding import Collator, encode_rows
    from tasks.core.metrics import confusion_matrix, macro_f1

    rows = encode_rows(Path(job.validation), tuned.tokenizer, job.labels, job.training.max_tokens)
    collate = Collator(tuned.tokenizer.pad_token_id or 0)
    device = next(tuned.classifier.parameters()).device
    predicted = np.zeros(len(rows), dtype=np.int64)
    order = np.argsort(rows.lengths)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        batch = collate([rows[int(row)] for row in chosen])
        with torch.no_grad():
            logits = tuned.classifier(batch["input_ids"].to(device), batch["attention_mask"].to(device))["logits"]
        predicted[chosen] = logits.argmax(-1).cpu().numpy()
    counts = confusion_matrix(rows.labels, predicted, len(job.labels))
    return {"macro_f1": float(macro_f1(counts)), "predicted": predicted.tolist()}
