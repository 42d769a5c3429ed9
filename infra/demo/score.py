"""Live accuracy per phase, with intervals, and the table that ends the demo."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.demo.traffic import Answered
from tasks.core.metrics import accuracy, group_confusions, interval, resample_groups


@dataclass(frozen=True)
class LiveAccuracy:
    """Accuracy of the answers that customers got in one phase, with a 95 % interval over resampled groups."""

    phase: str
    version: str
    accuracy: float
    low: float
    high: float
    n: int


def measure(answers: Sequence[Answered], phase: str, version: str, labels: Sequence[str]) -> LiveAccuracy:
    """Compare each text's first answer by a version with the human label."""
    first: dict[str, Answered] = {}
    for answer in answers:
        if (answer.phase, answer.version) == (phase, version):
            first.setdefault(answer.row_id, answer)
    chosen = list(first.values())
    if not chosen:
        return LiveAccuracy(phase, version, float("nan"), float("nan"), float("nan"), 0)
    gold, predicted = (
        np.array([labels.index(getattr(answer, name)) for answer in chosen]) for name in ("gold", "label")
    )
    counts = group_confusions(gold, predicted, [answer.group for answer in chosen], len(labels))
    low, high = interval(accuracy(resample_groups(counts, 2000, seed=0)), 0.95)
    return LiveAccuracy(phase, version, float(accuracy(counts.sum(0))), low, high, len(chosen))


def format_table(rows: Sequence[LiveAccuracy]) -> list[str]:
    """Return the table of live accuracy."""
    lines = [f"{'traffic':34} {'version':>7} {'accuracy':>9} {'95 % interval':>16} {'n':>6}"]
    for row in rows:
        low_high = f"[{row.low:.3f}, {row.high:.3f}]"
        lines.append(f"{row.phase:34} {row.version:>7} {row.accuracy:9.3f} {low_high:>16} {row.n:6}")
    return lines
