"""Model soups: the average of several runs that began at the same weights (Wortsman et al. 2022, arXiv:2203.05482).

The runs see the rows in different orders and end in one valley, so their average is a model too, mostly a better one
than its members, and answers at the cost of one.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.core.classifier import Classifier, load_classifier, save_classifier
from tasks.core.encoding import Collator, EncodedRows
from tasks.core.metrics import confusion_matrix, macro_f1
from tasks.core.trainer import Progress

FACTS = "member.json"  # written last: what stands beside it is whole


def average_members(members: Sequence[Classifier]) -> Classifier:
    """Return the first classifier with the mean of all members' weights; what is no number stays its own."""
    states = [member.state_dict() for member in members]
    soup = members[0]
    means = {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
        if value.is_floating_point()
    }
    soup.load_state_dict({**states[0], **means})
    return soup.eval()


def measure_macro_f1(classifier: Classifier, rows: EncodedRows, collator: Collator, batch_size: int = 64) -> float:
    """Return the macro-F1 of a classifier on encoded rows."""
    device = next(classifier.parameters()).device
    by_length = np.argsort(rows.lengths, kind="stable")
    predicted = np.zeros(len(rows), dtype=np.int64)
    for first in range(0, len(rows), batch_size):
        chosen = by_length[first : first + batch_size]
        batch = collator([rows[int(row)] for row in chosen])
        with torch.inference_mode():
            logits = classifier(batch["input_ids"].to(device), batch["attention_mask"].to(device))["logits"]
        predicted[chosen] = logits.argmax(-1).cpu().numpy()
    counts = confusion_matrix(np.asarray(rows.labels), predicted, len(classifier.shape.labels))
    return float(macro_f1(counts))


def tell_as_part(on_progress: Callable[[Progress], None], number: int, num_members: int) -> Callable[[Progress], None]:
    """Return a listener that tells one member's progress as a part of the whole."""

    def tell(progress: Progress) -> None:
        per_step = progress.seconds_left / max(1, progress.num_steps - progress.step)
        to_come = (num_members - 1 - number) * progress.num_steps * per_step
        on_progress(
            replace(
                progress,
                step=number * progress.num_steps + progress.step,
                num_steps=num_members * progress.num_steps,
                seconds_left=progress.seconds_left + to_come,
            )
        )

    return tell


def keep_member(classifier: Classifier, tokenizer: Any, facts: dict[str, Any], folder: Path) -> None:
    """Write a member that is done, so that a killed run does not train it again."""
    save_classifier(classifier, tokenizer, folder)
    partial = folder / f"{FACTS}.partial"
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(folder / FACTS)


def is_kept(folder: Path) -> bool:
    """Say whether `keep_member` ended there."""
    return (folder / FACTS).is_file()


def find_member(folder: Path) -> tuple[Classifier, dict[str, Any]] | None:
    """Return a member that `keep_member` wrote, with its facts, or None where it is not done."""
    if not is_kept(folder):
        return None
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return load_classifier(folder), facts
