"""Topics: what the texts of both sides are about, and which of these came or went.

K-means on the embeddings of both sides together, each side weighing the same; a topic is named by the words that tell
its texts from the others, and shown by the texts nearest to its centre. Shapes: N rows, D dimensions, K topics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.core.grouped_shares import compare_shares, find_sure, share_by_group
from tasks.core.wording import Usage, name_by_words

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MIN_TOPICS, MAX_TOPICS = 4, 12
TEXTS_PER_TOPIC = 60  # of both sides: fewer make topics of single texts
MAX_EXAMPLES = 3
MAX_NAMING_WORDS = 5

Outcome = Literal["came", "went", "same"]


@dataclass(frozen=True)
class Topic:
    """A cluster of texts: its telling words, its share on both sides, and ids of rows that show it (never texts)."""

    words: tuple[str, ...]
    reference: float
    current: float
    outcome: Outcome
    reference_examples: tuple[str, ...]  # row ids
    current_examples: tuple[str, ...]  # prediction ids


@dataclass(frozen=True)
class Rows:
    """Rows of both sides, reference first: embeddings [N, D], side, group and id of each; `usage` of their texts."""

    vectors: Floats
    is_current: Bools
    groups: Sequence[str]
    ids: Sequence[str]
    usage: Usage


def find_topics(rows: Rows, seed: int = 0) -> tuple[Topic, ...]:
    """Return the topics, those whose share changed most first."""
    codes_N, distances_N = _cluster(rows.vectors, rows.is_current, seed)
    num_topics = int(codes_N.max()) + 1
    marks_NK = codes_N[:, None] == np.arange(num_topics)[None]
    groups = np.asarray(rows.groups, dtype=object)
    reference, current = (
        share_by_group(marks_NK[side], groups[side].tolist()) for side in (~rows.is_current, rows.is_current)
    )
    z_K = compare_shares(reference, current)
    is_sure_K = find_sure(z_K)
    topics = []
    for k in np.argsort(-np.abs(current.shares - reference.shares), kind="stable"):
        outcome: Outcome = "same" if not is_sure_K[k] else "came" if z_K[k] > 0 else "went"
        words = name_by_words(rows.usage, marks_NK[:, k], rows.groups, MAX_NAMING_WORDS)
        shares = float(reference.shares[k]), float(current.shares[k])
        shown = [_pick(rows, marks_NK[:, k] & side, distances_N) for side in (~rows.is_current, rows.is_current)]
        topics.append(Topic(tuple(words), *shares, outcome, shown[0], shown[1]))
    return tuple(topics)


def _cluster(vectors_ND: Floats, is_current_N: Bools, seed: int) -> tuple[Ints, Floats]:
    """Return each row's topic, numbered without gaps, and its distance from that topic's centre."""
    from sklearn.cluster import KMeans  # a second to import

    weights_N = np.where(is_current_N, 0.5 / is_current_N.sum(), 0.5 / (~is_current_N).sum())
    num_different = len(np.unique(vectors_ND, axis=0))
    wanted = min(max(len(vectors_ND) // TEXTS_PER_TOPIC, MIN_TOPICS), MAX_TOPICS, num_different)
    fitted = KMeans(wanted, n_init=3, random_state=seed).fit(vectors_ND, sample_weight=weights_N)
    distances_N: Floats = np.linalg.norm(vectors_ND - fitted.cluster_centers_[fitted.labels_], axis=1)
    return np.unique(fitted.labels_, return_inverse=True)[1].astype(np.int64), distances_N


def _pick(rows: Rows, is_wanted_N: Bools, distances_N: Floats) -> tuple[str, ...]:
    """Return the ids of the wanted rows nearest to the centre, one a group."""
    picked: dict[str, str] = {}
    for row in np.argsort(distances_N, kind="stable"):
        if is_wanted_N[row]:
            picked.setdefault(rows.groups[row], rows.ids[row])
        if len(picked) == MAX_EXAMPLES:
            break
    return tuple(picked.values())
