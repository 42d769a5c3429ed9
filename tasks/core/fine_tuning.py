"""Turns a base model and labelled rows into a classifier; the recipe is data (`configs/schema.py: Training`)."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from configs.schema import Training
from tasks.core.adapters import (
    BaseIdentity,
    add_adapter,
    fingerprint_weights,
    is_adapted,
    quantization_config,
    resume_adapter,
)
from tasks.core.augmentation import augment
from tasks.core.averaging import WeightAverage
from tasks.core.base_models import PACKAGE
from tasks.core.checkpoints import find_checkpoint
from tasks.core.classifier import (
    Classifier,
    ClassifierShape,
    check_pooling,
    load_classifier,
    load_encoder,
    load_tokenizer,
    save_classifier,
)
from tasks.core.compiling import compiled, should_compile
from tasks.core.encoding import Collator, EncodedRows, Rows, encode_rows, read_rows
from tasks.core.few_shot import draw_together, is_few_shot
from tasks.core.layers import freeze_lower_layers
from tasks.core.optimizer import make_optimizer
from tasks.core.precision import settle_precision
from tasks.core.processes import rank, rank_zero_first
from tasks.core.soup import average_members, find_member, is_kept, keep_member, measure_macro_f1, tell_as_part
from tasks.core.trainer import (
    Averaging,
    ClassifierTrainer,
    Progress,
    Reporter,
    make_arguments,
    make_early_stopping,
    measure,
    steps_per_epoch,
)

logger = logging.getLogger(__name__)


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
    train: Rows,
    validation: Rows,
    labels: Sequence[str],
    training: Training,
    base_model: str,
    checkpoints: Path,
    on_progress: Callable[[Progress], None],
    start: Path | None = None,
    cache: Path | None = None,
) -> FineTuned:
    """Fine-tune on `train`, choose the best evaluation on `validation`; continue a run that was killed.

    Both frames need `text` and `label`; they may have `rating`, `soft_labels` (a JSON list of shares in the order of
    `labels`, "" for none) and `weight` (share of the row's loss). `checkpoints` is this run's own folder. `start` is a
    folder of `save_classifier`, whose weights training goes on from; its heads too where the labels are the same.
    Either set may be a Parquet file, which is never in memory as a whole; large sets are kept encoded in `cache`.
    Where several processes call this, each gets the same model, and rank 0 alone writes and reports.
    """
    if training.soup > 1:
        return _cook(train, validation, labels, training, base_model, checkpoints, on_progress, start, cache)
    set_seed(training.seed)
    tokenizer = load_tokenizer(str(start / "encoder") if start else base_model)
    num_own = None  # augmentation puts its copies behind the rows themselves
    if training.augmentation.copies:
        rows = read_rows(train)
        num_own, train = len(rows), augment(rows, training.augmentation, training.seed)
        logger.info("augmentation: %d changed copies beside %d training rows", len(train) - num_own, num_own)
    with rank_zero_first():  # the others find what it encoded
        encoded = [encode_rows(rows, tokenizer, labels, training.max_tokens, cache) for rows in (train, validation)]
    classifier = _build(base_model, _shape(labels, training, encoded[0]), training, start)
    if training.class_weights == "balanced":
        classifier.class_weights = _balanced_weights(encoded[0].labels, len(labels))
    collator = Collator(tokenizer.pad_token_id or 0)
    trial = collator([encoded[0][row] for row in range(min(training.batch_size, len(encoded[0])))])
    precision = settle_precision(classifier, trial, training.precision, checkpoints / "precision")
    resume = find_checkpoint(checkpoints)
    started = time.monotonic()
    if resume is None and is_few_shot(encoded[0].labels[:num_own], training.few_shot, goes_on=start is not None):
        logger.info("few rows per class: %d rows become pairs before the head learns", len(encoded[0]))
        set_seed(training.seed)
        draw_together(classifier, encoded[0], collator, training, precision, checkpoints / "pairs", on_progress)
    set_seed(training.seed)  # what follows must not hang on a trial, or on where the pairs were resumed
    trainer = _make_trainer(classifier, encoded, collator, training, precision, checkpoints, resume, on_progress)
    num_steps = training.max_steps or math.ceil(training.epochs * steps_per_epoch(training, len(encoded[0])))
    with compiled(classifier.encoder, should_compile(training, num_steps)):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    # accelerate leaves its mixed-precision wrapper around forward; an export would trace it.
    classifier = trainer.accelerator.unwrap_model(classifier, keep_fp32_wrapper=False)
    return FineTuned(
        classifier=_in_full_precision(classifier, tokenizer, training, checkpoints / f"quantised-{rank()}"),
        tokenizer=tokenizer,
        seconds=time.monotonic() - started,
        steps=trainer.state.global_step,
        resumed_from=int(resume.name.split("-")[1]) if resume else 0,
        device=str(trainer.args.device),
        precision=precision,
        validation_macro_f1=float(trainer.state.best_metric or 0.0),
    )


def _cook(
    train: Rows,
    validation: Rows,
    labels: Sequence[str],
    training: Training,
    base_model: str,
    checkpoints: Path,
    on_progress: Callable[[Progress], None],
    start: Path | None,
    cache: Path | None,
) -> FineTuned:
    """Return the average of `training.soup` members; the best member where the average is worse than their mean."""
    set_seed(training.seed)
    tokenizer = load_tokenizer(str(start / "encoder") if start else base_model)
    with rank_zero_first():
        encoded = [encode_rows(rows, tokenizer, labels, training.max_tokens, cache) for rows in (train, validation)]
        shared = checkpoints / "start"
        if not is_kept(shared):
            begun = _build(base_model, _shape(labels, training, encoded[0]), training, start)
            keep_member(begun, tokenizer, {}, shared)
    members = []
    for number in range(training.soup):
        own = training.model_copy(update={"soup": 1, "seed": training.seed + number})
        tell = tell_as_part(on_progress, number, training.soup)
        folder = checkpoints / f"member-{number}"
        members.append(_member(train, validation, labels, own, base_model, folder, tell, shared, cache))
    reached = [member.validation_macro_f1 for member in members]
    best = members[int(np.argmax(reached))]
    best_weights = {name: value.clone() for name, value in best.classifier.state_dict().items()}
    soup = average_members([member.classifier for member in members])
    score = measure_macro_f1(soup, encoded[1], Collator(tokenizer.pad_token_id or 0))
    logger.info("average of %d runs: validation macro-F1 %.4f, theirs %s", len(members), score,
                ", ".join(f"{value:.4f}" for value in reached))  # fmt: skip
    if score < float(np.mean(reached)):  # the mean: the best of several is best by chance too
        soup.load_state_dict(best_weights)
        score = max(reached)
    return replace(
        best,
        classifier=soup,
        seconds=sum(member.seconds for member in members),
        steps=sum(member.steps for member in members),
        resumed_from=sum(member.resumed_from for member in members),
        validation_macro_f1=score,
    )


def _member(
    train: Rows,
    validation: Rows,
    labels: Sequence[str],
    training: Training,
    base_model: str,
    folder: Path,
    on_progress: Callable[[Progress], None],
    start: Path,
    cache: Path | None,
) -> FineTuned:
    """Return one member of a soup, trained now or by a run that was killed later."""
    done = find_member(folder / "done")
    if done is not None:
        return FineTuned(classifier=done[0], tokenizer=load_tokenizer(str(start / "encoder")), **done[1])
    member = fine_tune(train, validation, labels, training, base_model, folder, on_progress, start, cache)
    member = replace(member, classifier=member.classifier.cpu())
    facts = {name: value for name, value in vars(member).items() if name not in ("classifier", "tokenizer")}
    with rank_zero_first():
        if rank() == 0:
            keep_member(member.classifier, member.tokenizer, facts, folder / "done")
    return member


def _make_trainer(
    classifier: Classifier,
    encoded: Sequence[EncodedRows],
    collator: Collator,
    training: Training,
    precision: str,
    checkpoints: Path,
    resume: Path | None,
    on_progress: Callable[[Progress], None],
) -> ClassifierTrainer:
    """Return the Trainer of this recipe on encoded train and validation rows."""
    average = WeightAverage(classifier, training.average_weights) if training.average_weights else None
    if average and resume:
        average.load(resume)
    trainer = ClassifierTrainer(
        model=classifier,
        args=make_arguments(training, checkpoints, len(encoded[0]), precision),
        train_dataset=encoded[0],
        eval_dataset=Subset(encoded[1], np.argsort(encoded[1].lengths, kind="stable").tolist()),  # least padding
        data_collator=collator,
        compute_metrics=measure,
        callbacks=[*([Averaging(average)] if average else []), Reporter(on_progress), *make_early_stopping(training)],
        optimizers=(make_optimizer(classifier, training), None),
        average=average,
        rows_per_batch=training.batch_size,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _shape(labels: Sequence[str], training: Training, train: EncodedRows) -> ClassifierShape:
    has_rating_head = training.rating_weight > 0 and train.has_ratings
    return ClassifierShape(tuple(labels), training.pooling, training.max_tokens, has_rating_head)


def _build(base_model: str, shape: ClassifierShape, training: Training, start: Path | None) -> Classifier:
    known = load_classifier(start) if start else None
    encoder = known.encoder if known else load_encoder(base_model, quantization_config(training.lora))
    check_pooling(encoder.config, shape.pooling)
    base = None  # known where all that is trained is an adapter
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = training.dropout
    if is_adapted(encoder):
        resumed = resume_adapter(encoder, training)
        # What the adapter held back may learn again once it is part of the weights.
        merged = encoder.merge_and_unload().requires_grad_(True) if resumed is None else None
        encoder, base = (resumed, known.base) if known and resumed else (merged, None)
    if training.method == "lora" and not is_adapted(encoder):
        if known is None:
            base = _identify(encoder, base_model, training)
        encoder = add_adapter(encoder, training.lora)
    freeze_lower_layers(encoder, training)
    classifier = Classifier(encoder, shape, training.dropout)
    classifier.base = base
    classifier.rating_weight = training.rating_weight
    classifier.label_smoothing = training.label_smoothing
    if known is not None:
        _take_heads(classifier, known)
    return classifier


def _take_heads(classifier: Classifier, known: Classifier) -> None:
    """Copy the heads of a classifier that knows the same labels, in whatever order; other labels start anew."""
    if sorted(known.shape.labels) == sorted(classifier.shape.labels):
        order = [known.shape.labels.index(label) for label in classifier.shape.labels]
        classifier.head.load_state_dict({name: value[order] for name, value in known.head.state_dict().items()})
    if known.rating_head is not None and classifier.rating_head is not None:
        classifier.rating_head.load_state_dict(known.rating_head.state_dict())


def _identify(encoder: Any, base_model: str, training: Training) -> BaseIdentity:
    """Return what an adapter will need again; a package's name holds on every machine, a place in it does not."""
    name = training.base_model if training.base_model.startswith(PACKAGE) else base_model
    return BaseIdentity(name, "" if training.lora.quantization != "none" else fingerprint_weights(encoder))


def _in_full_precision(classifier: Classifier, tokenizer: Any, training: Training, folder: Path) -> Classifier:
    """Return the classifier to serve: its adapter on the base model's own weights, not on quantised ones.

    An adapter on other weights than a base model's, such as an earlier version's, becomes part of them: it could not
    be put back on them later.
    """
    if is_adapted(classifier.encoder) and classifier.base is None:
        classifier.encoder = classifier.encoder.merge_and_unload()
        return classifier.eval().float()
    if training.method == "lora" and training.lora.quantization != "none":
        save_classifier(classifier, tokenizer, folder)
        return load_classifier(folder)
    return classifier.eval().float()


def _balanced_weights(labels: npt.NDArray[np.int64], num_labels: int) -> Tensor:
    """Return weights inversely proportional to class frequency, with mean 1 over rows."""
    counts = np.bincount(labels, minlength=num_labels).astype(float)
    return torch.tensor(counts.sum() / (num_labels * np.maximum(counts, 1)), dtype=torch.float32)
