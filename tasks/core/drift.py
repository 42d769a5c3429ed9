"""Drift: does the current window look as if it came from where the reference came from?

Tests on what the champion answers, on what it reads and on what a person can read off the texts share the same
permutations of whole groups (see `core/permutations.py`) and are judged together by their smallest p-value, so that all
of them cry wolf together in at most the stated share of windows. A test fires when it is significant *and* the sides
lie far enough apart: on a large window the former alone says little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tasks.core.drift_statistics import Distance, compare_distributions, compare_vectors
from tasks.core.permutations import Bools, Floats, Ints, min_p, permute, pool_groups

EFFECTS = {  # what the effect of each test is: all of them lie between 0 (the same) and 1 (nothing in common)
    "outputs": "largest distance between the distributions of a class's probabilities",
    "embeddings": "how well texts of both sides can be told apart, by the base model's vectors",
    "representation": "how well texts of both sides can be told apart, by the champion's vectors",
    "length": "largest distance between the distributions of words per text",
    "pieces": "largest distance between the distributions of tokens per word",
    "unknown_tokens": "largest distance between the distributions of the share of unknown tokens",
    "wordless": "difference in the share of texts without letter or digit",
    "copies": "difference in the share of texts that come again, each counted once",
    "language": "largest difference in the share of a language",
}
DESCRIPTORS = ("length", "pieces", "unknown_tokens", "wordless", "copies", "language")
DESCRIPTOR_WEIGHT = 0.25  # of its p-value beside a test of outputs or vectors, which find more of what matters


@dataclass(frozen=True)
class Sample:
    """One side of the comparison: class probabilities [N, C], sentence vectors [N, D] and the group of each row.

    Probabilities of no class (C = 0) are not compared. `representation` are the champion's own vectors; `descriptors`
    are numbers [N, K] per test of `EFFECTS`, NaN where a row says nothing.
    """

    probabilities: Floats
    embeddings: Floats
    groups: Sequence[str]
    representation: Floats | None = None
    descriptors: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftTest:
    """One test's answer.

    `p_value` is corrected for all tests of the window; `effect` (see `EFFECTS`) does not grow with the number of rows,
    and no test fires below `min_effect`.
    """

    name: str
    statistic: float
    p_value: float
    unadjusted_p_value: float
    effect: float
    fires: bool
    min_effect: float = 0.0


@dataclass(frozen=True)
class ShareShift:
    """Share of rows predicted as a label on both sides: a fact to read, not a test."""

    label: str
    reference: float
    current: float


def compare(
    *,
    reference: Sample,
    current: Sample,
    alpha: float,
    permutations: int = 999,
    min_effects: Mapping[str, float] | None = None,
    seed: int = 0,
) -> tuple[DriftTest, ...]:
    """Test whether both sides come from one population, by permuting whole groups.

    Any test fires falsely in at most `alpha` of windows, all tests together. 500 texts of one user are one witness.
    What only one side has is not compared.
    Raises ValueError unless both sides have two groups or more: ask `can_fire` first.
    """
    codes, is_reference_G = pool_groups(reference.groups, current.groups)
    if min(is_reference_G.sum(), (~is_reference_G).sum()) < 2:
        raise ValueError("one group alone says nothing about chance; ask can_fire first")
    distances = _measure(reference, current, codes, permute(is_reference_G, permutations, seed))
    weights = [DESCRIPTOR_WEIGHT if name in DESCRIPTORS else 1.0 for name in distances]
    corrected, own = min_p(np.stack([distance.statistics for distance in distances.values()], axis=1), weights)
    tests = []
    for (name, distance), p_value, own_p_value in zip(distances.items(), corrected, own, strict=True):
        min_effect = (min_effects or {}).get(name, 0.0)
        fires = p_value <= alpha and distance.effect >= min_effect
        statistic = float(distance.statistics[0])
        tests.append(DriftTest(name, statistic, p_value, own_p_value, distance.effect, fires, min_effect))
    return tuple(tests)


def shift_shares(*, reference: Sequence[str], current: Sequence[str], labels: Sequence[str]) -> list[ShareShift]:
    """Return each label's share of the predictions on both sides."""
    return [ShareShift(label, _share(reference, label), _share(current, label)) for label in labels]


def _measure(reference: Sample, current: Sample, codes: Ints, splits_PG: Bools) -> dict[str, Distance]:
    distances = {}
    if reference.probabilities.shape[1]:
        outputs = _stack(reference.probabilities, current.probabilities)
        outputs = np.column_stack([outputs, outputs.max(axis=1)])  # the last one is the score
        distances["outputs"] = compare_distributions(outputs, codes, splits_PG)
    vectors_ND = _stack(reference.embeddings, current.embeddings)
    distances["embeddings"] = compare_vectors(vectors_ND, codes, splits_PG)
    if reference.representation is not None and current.representation is not None:
        vectors_ND = _stack(reference.representation, current.representation)
        distances["representation"] = compare_vectors(vectors_ND, codes, splits_PG, whiten=True)
    for name in DESCRIPTORS:
        if name in reference.descriptors and name in current.descriptors:
            values_NK = _stack(reference.descriptors[name], current.descriptors[name])
            distances[name] = compare_distributions(values_NK, codes, splits_PG)
    return distances


def _share(labels: Sequence[str], label: str) -> float:
    return sum(each == label for each in labels) / len(labels) if len(labels) else 0.0


def _stack(reference: Floats, current: Floats) -> npt.NDArray[np.float32]:
    return np.concatenate([np.asarray(reference, np.float32), np.asarray(current, np.float32)])
