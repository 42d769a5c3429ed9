"""Contrastive training before the head, for few rows per class (SetFit; Tunstall et al. 2022, arXiv:2209.11055).

Texts of the same label are drawn together and texts of different labels apart, by the cosine of their sentence vectors.
From n rows come many pairs, so that even 8 rows per class teach the encoder what the labels mean. Ends with a logistic
head on the vectors; the usual training then goes on from there.

Shapes: B pairs, T tokens, D hidden size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from configs.schema import FewShot, Training
from tasks.core.checkpoints import find_checkpoint
from tasks.core.classifier import Classifier
from tasks.core.encoding import Collator, EncodedRows
from tasks.core.optimizer import make_optimizer
from tasks.core.processes import rank, wait_for_all, world_size
from tasks.core.trainer import ClassifierTrainer, Progress, Reporter

DRAWN_TOGETHER = "contrastive.safetensors"  # the classifier after this stage
SAVES = 4  # checkpoints of the stage: what a kill can cost
HEAD_BATCH = 64


def is_few_shot(labels: Sequence[int] | npt.NDArray[np.int64], few_shot: FewShot, goes_on: bool = False) -> bool:
    """Say whether pairs come first: as the recipe says, or while the median class has few rows.

    `auto` leaves a run alone that goes on from a model: its new rows may be few, and pairs give the head anew.
    """
    if few_shot.mode != "auto":
        return few_shot.mode == "always"
    if goes_on:
        return False
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return len(counts) > 1 and float(np.median(counts)) <= few_shot.max_rows_per_class


def draw_pairs(labels: npt.NDArray[np.int64], pairs_per_row: int, seed: int) -> npt.NDArray[np.int64]:
    """Return pairs [P, 3]: two row numbers, and 1 where their labels are the same, 0 where they differ.

    Each row meets as many rows of its own label as of others; a row that is alone with its label meets others only.
    """
    random = np.random.default_rng(seed)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    pairs: list[tuple[int, int, int]] = []
    for row, label in enumerate(labels):
        for number in range(pairs_per_row):
            pool = members[label] if number % 2 else np.flatnonzero(labels != label)
            other = int(random.choice(pool)) if len(pool) else row
            if other == row and len(pool) > 1:
                other = int(pool[(np.searchsorted(pool, row) + 1) % len(pool)])
            if other != row:
                pairs.append((row, other, number % 2))
    return np.array(pairs, dtype=np.int64).reshape(-1, 3)


class PairRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Pairs of encoded rows."""

    def __init__(self, rows: EncodedRows, pairs: npt.NDArray[np.int64]) -> None:
        self._rows = rows
        self._pairs = pairs
        self.lengths = np.maximum(rows.lengths[pairs[:, 0]], rows.lengths[pairs[:, 1]])

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        one, other, is_same = self._pairs[number]
        return {"one": self._rows[int(one)], "other": self._rows[int(other)], "is_same": float(is_same)}


@dataclass(frozen=True)
class PairCollator:
    """Makes one batch of both sides of the pairs: first all left texts, then all right ones."""

    collator: Collator

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask [2B, T], and labels [B]: 1.0 for the same label."""
        batch = self.collator([pair[side] for side in ("one", "other") for pair in pairs])
        same = torch.tensor([pair["is_same"] for pair in pairs], dtype=torch.float32)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": same}


class PairModel(nn.Module):
    """The encoder as it learns from pairs; heads take no part."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.encoder = classifier.encoder
        self._embed = classifier.embed  # not a submodule: its weights are the encoder's

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the mean squared error between the pairs' cosines and 1 (same label) or 0."""
        one_BD, other_BD = self._embed(input_ids, attention_mask).float().chunk(2)
        cosine_B = F.cosine_similarity(one_BD, other_BD)
        return {"loss": F.mse_loss(cosine_B, labels), "logits": cosine_B}


def draw_together(
    classifier: Classifier,
    rows: EncodedRows,
    collator: Collator,
    training: Training,
    precision: str,
    folder: Path,
    on_progress: Callable[[Progress], None],
) -> None:
    """Train the classifier's encoder on pairs, then its head by logistic regression; changes both in place.

    A killed stage continues at its last checkpoint in `folder`; a finished one is only loaded.
    """
    done = folder / DRAWN_TOGETHER
    if done.is_file():
        classifier.load_state_dict(load_file(done))
        return
    few_shot = training.few_shot
    pairs = PairRows(rows, draw_pairs(rows.labels, few_shot.pairs_per_row, training.seed))
    recipe = training.model_copy(update={"learning_rate": few_shot.learning_rate})
    resume = find_checkpoint(folder)
    model = PairModel(classifier)
    trainer = ClassifierTrainer(
        model=model,
        args=_make_arguments(training, folder, len(pairs), precision),
        train_dataset=pairs,
        data_collator=PairCollator(collator),
        callbacks=[Reporter(lambda progress: on_progress(_renamed(progress)))],
        optimizers=(make_optimizer(model, recipe), None),
        rows_per_batch=few_shot.batch_size,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    _fit_head(classifier, rows, collator)
    if rank() == 0:
        partial = done.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in classifier.state_dict().items()}, partial)
        partial.replace(done)
    wait_for_all()


def _make_arguments(training: Training, folder: Path, num_pairs: int, precision: str) -> TrainingArguments:
    few_shot = training.few_shot
    num_steps = math.ceil(math.ceil(num_pairs / few_shot.batch_size) * few_shot.epochs)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=max(1, few_shot.batch_size // world_size()),
        num_train_epochs=few_shot.epochs,
        learning_rate=few_shot.learning_rate,
        warmup_steps=training.warmup_share,
        bf16=precision == "bf16",
        seed=training.seed,
        save_strategy="steps",
        save_steps=max(1, num_steps // SAVES),
        save_total_limit=1,
        logging_steps=max(1, min(10, num_steps)),
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


@torch.no_grad()
def _fit_head(classifier: Classifier, rows: EncodedRows, collator: Collator) -> None:
    """Give the head the weights of a logistic regression on the sentence vectors."""
    from sklearn.linear_model import LogisticRegression

    classifier.eval()
    device = classifier.head.weight.device
    vectors = []
    for start in range(0, len(rows), HEAD_BATCH):
        batch = collator([rows[number] for number in range(start, min(start + HEAD_BATCH, len(rows)))])
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        vectors.append(classifier.embed(ids, mask).float().cpu().numpy())
    classifier.train()
    known = np.unique(rows.labels)
    if len(known) < 2:
        return
    fitted = LogisticRegression(max_iter=1000).fit(np.concatenate(vectors), rows.labels)
    two_classes = len(known) == 2  # scikit-learn then keeps one row: the second class against the first
    weights = np.concatenate([-fitted.coef_, fitted.coef_]) / 2 if two_classes else fitted.coef_
    biases = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2 if two_classes else fitted.intercept_
    classifier.head.weight[known] = torch.tensor(weights, dtype=torch.float32, device=device)
    classifier.head.bias[known] = torch.tensor(biases, dtype=torch.float32, device=device)


def _renamed(progress: Progress) -> Progress:
    """Keep the stage's loss apart from the loss of the training that follows: they measure different things."""
    metrics = {f"contrastive_{name}": value for name, value in progress.metrics.items() if name == "loss"}
    return Progress(progress.step, progress.num_steps, progress.seconds_left, metrics)
