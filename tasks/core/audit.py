"""How good the champion is on live texts, measured from labels of which it is known how they came.

*audit*: texts drawn by chance, so what holds for them holds for all. *given*: a customer sent the label, mostly because
an answer looked wrong: true of these texts and of no others. *unsure*, *review*: people were asked because the model
was unsure or a label was doubted; such texts are harder than most. Only audited texts speak for texts without a label:
each stands for as many as its chance of being drawn says (Horvitz & Thompson 1952). Given labels speak for themselves.

Shapes: N rows of the window, U audited texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import beta, t

from tasks.core.rows import normalise_text

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Method = Literal["audit", "all labelled"]

MIN_AUDITED = 10  # audited texts; fewer tell nothing that is worth a number
MIN_COVERED = 0.9  # share of rows that a number must speak for
TEXTS_PER_SPAN = 10  # audited texts behind each span of time
MAX_SPANS = 6


@dataclass(frozen=True)
class MeasuredAccuracy:
    """Share of right answers in a window, with an interval by whole groups; `n` labels carry it.

    `n_audited` of them were drawn by chance, `n_given` sent by customers. `covered` is the share of rows they speak
    for: where it is below 1, the interval allows the others to be all right or all wrong.
    """

    accuracy: float
    low: float
    high: float
    n: int
    method: Method = "audit"
    n_audited: int = 0
    n_given: int = 0
    covered: float = 1.0


@dataclass(frozen=True)
class LabelCounts:
    """How many labels of a window came which way; `unsure` holds all that people were asked for with a purpose."""

    audit: int = 0
    given: int = 0
    unsure: int = 0

    @property
    def all(self) -> int:
        """Return how many labels there are."""
        return self.audit + self.given + self.unsure


@dataclass(frozen=True)
class _Part:
    """Rows that one sample speaks for: weights of its texts sum to `size`."""

    size: int
    right: Floats
    weights: Floats
    groups: Ints


def count_labels(window: pd.DataFrame) -> LabelCounts:
    """Return how the labels of a window came."""
    picked = _picked(window)
    known = window["gold"].notna().to_numpy()
    counts = [int((known & (picked == way)).sum()) for way in ("audit", "given")]
    return LabelCounts(counts[0], counts[1], int(known.sum()) - sum(counts))


def measure_accuracy(
    window: pd.DataFrame, *, complete_keys: Sequence[str] = (), confidence: float = 0.95
) -> MeasuredAccuracy | None:
    """Return the accuracy on all rows of a window, or None where its labels do not tell.

    Columns: text, label (the answer), gold (None without one), picked (how the label came), group, at, key_id.
    `complete_keys` name keys ("*": all) that send labels of all their texts or of random ones: what they send is a
    sample of their own rows. Copies of a text share its label.
    """
    if window.empty:
        return None
    window = window.sort_values("at", kind="stable")
    texts = np.unique([normalise_text(text) for text in window["text"]], return_inverse=True)[1].astype(np.int64)
    groups = np.unique(window["group"].to_numpy(dtype=np.str_), return_inverse=True)[1].astype(np.int64)
    gold, answers, keys = (window[name].to_numpy(dtype=object) for name in ("gold", "label", "key_id"))
    picked, has_gold = _picked(window), window["gold"].notna().to_numpy()
    is_complete = np.array([key in complete_keys or "*" in complete_keys for key in keys])
    given = has_gold & (picked == "given")
    known = _share_label(texts, gold, given & ~is_complete)
    parts = [_take_all(answers, known, groups)] if any(label is not None for label in known) else []
    n_given, n_audited = int((given & ~is_complete).sum()), 0
    is_known = np.array([label is not None for label in known])
    samples = [(~is_complete & ~is_known, has_gold & (picked == "audit"))]
    samples += [(is_complete & ~is_known & (keys == key), given) for key in sorted(set(keys[is_complete]))]
    for rows, labelled in samples:
        drawn = _share_label(texts[rows], gold[rows], labelled[rows])
        found = _sample(texts[rows], answers[rows], drawn, groups[rows], labelled[rows])
        parts += found
        n_audited += sum(len(part.right) for part in found)
    covered = sum(part.size for part in parts) / len(window)
    if covered < MIN_COVERED:
        return None
    return _conclude(parts, covered, n_audited, n_given, len(window), confidence)


def _picked(window: pd.DataFrame) -> npt.NDArray[np.object_]:
    if "picked" not in window.columns:
        return np.full(len(window), "given", dtype=object)
    picked: npt.NDArray[np.object_] = window["picked"].to_numpy(dtype=object)
    return picked


def _share_label(texts: Ints, gold: npt.NDArray[np.object_], labelled: Bools) -> list[object]:
    """Return each row's label: that of any labelled row with the same text, else None."""
    of_text = dict(zip(texts[labelled].tolist()[::-1], gold[labelled].tolist()[::-1], strict=True))
    return [of_text.get(text) for text in texts.tolist()]


def _take_all(answers: npt.NDArray[np.object_], known: list[object], groups: Ints) -> _Part:
    rows = np.flatnonzero([label is not None for label in known])
    right = np.array([answers[row] == known[row] for row in rows], dtype=np.float64)
    return _Part(len(rows), right, np.ones(len(rows)), groups[rows])


def _sample(
    texts: Ints, answers: npt.NDArray[np.object_], drawn: list[object], groups: Ints, labelled: Bools
) -> list[_Part]:
    """Return what a sample says of its rows, span by span of time: labelling may have got further in some than others.

    Rows are oldest first. A text is drawn when one of its copies is, so frequent ones are drawn more easily; all its
    copies belong to the span of the oldest one, else their chances in each span would be mistaken.
    """
    places = np.flatnonzero(labelled)
    first = places[np.unique(texts[places], return_index=True)[1]]
    if len(first) < MIN_AUDITED:
        return []
    num_spans = min(MAX_SPANS, len(first) // TEXTS_PER_SPAN)
    _, oldest, number_of = np.unique(texts, return_index=True, return_inverse=True)
    begins = oldest[number_of]
    cuts = [chunk[0] for chunk in np.array_split(np.sort(begins[first]), num_spans)][1:]
    span = np.searchsorted(cuts, begins, side="right")
    parts = []
    for number in range(num_spans):
        rows = np.flatnonzero(span == number)
        copies = np.bincount(texts[rows])
        ours = first[span[first] == number]
        chance = _find_chance(copies[copies > 0], len(ours))
        times = copies[texts[ours]].astype(np.float64)
        weights = times / (1 - (1 - chance) ** times) if chance < 1 else times
        right = np.array([answers[row] == drawn[row] for row in ours], dtype=np.float64)
        parts.append(_Part(len(rows), right, weights * len(rows) / weights.sum(), groups[ours]))
    return parts


def _find_chance(copies: Ints, num_drawn: int) -> float:
    """Return the chance of a row at which so many texts are drawn, one copy of them or more."""
    if num_drawn >= len(copies):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - (1 - middle) ** copies).sum() < num_drawn else (low, middle)
    return high


def _conclude(
    parts: Sequence[_Part], covered: float, n_audited: int, n_given: int, n_rows: int, confidence: float
) -> MeasuredAccuracy:
    size = sum(part.size for part in parts)
    means = [float(np.average(part.right, weights=part.weights)) for part in parts]
    accuracy = sum(mean * part.size for mean, part in zip(means, parts, strict=True)) / size
    weights = np.concatenate([part.weights for part in parts])
    groups = np.unique(np.concatenate([part.groups for part in parts]), return_inverse=True)[1]
    off = np.concatenate([part.weights * (part.right - mean) for part, mean in zip(parts, means, strict=True)]) / size
    low, high = _bound(accuracy, off, weights, groups, len(parts), confidence)
    return MeasuredAccuracy(
        accuracy,
        covered * low,
        covered * high + 1 - covered,
        n_audited + n_given,
        "audit" if n_audited < n_rows - n_given else "all labelled",
        n_audited,
        n_given,
        covered,
    )


def _bound(
    share: float, off: Floats, weights: Floats, groups: Ints, num_parts: int, confidence: float
) -> tuple[float, float]:
    """Return the Clopper–Pearson interval of a share at its effective number of labels (Korn & Graubard 1998).

    That number comes from the spread between groups, and is at most what the weights leave (Kish 1965). Where nothing
    varies, the spread says nothing and each group counts once.
    """
    totals = np.bincount(groups, off)
    num_groups, num_labels = len(totals), len(weights)
    variance = num_groups / max(num_groups - 1, 1) * float((totals**2).sum())
    most = _kish(weights)
    if variance <= 1e-12 or num_groups < 2:
        effective = _kish(np.bincount(groups, weights))
    else:
        freedom = max(num_groups - num_parts, 1)
        tail = (1 - confidence) / 2
        narrowing = (t.ppf(tail, max(num_labels - 1, 1)) / t.ppf(tail, freedom)) ** 2
        effective = max(min(share * (1 - share) / variance * narrowing, most), 0.5)
    hits, misses, tail = share * effective, (1 - share) * effective, (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, misses + 1)) if hits > 1e-9 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, misses)) if misses > 1e-9 else 1.0
    return low, high


def _kish(weights: npt.NDArray[np.number]) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())
