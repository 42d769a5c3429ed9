"""Which texts a person should label first: unsure ones that are unlike what is labelled, and unlike each other.

Texts are compared by their words, weighted by how rare they are: that takes milliseconds and no model, and found the
most useful tweets as well as vectors of the base encoder did (`tests/bench/labels.py`).
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]

NUM_WORDS = 2**14  # places that words are hashed to
CHOSEN = 200  # texts chosen one by one; the others follow by how unsure and new they are
_WORD = re.compile(r"\w+")


def order_by_use(texts: Sequence[str], unsure: Sequence[float], known: Sequence[str] = ()) -> list[int]:
    """Return the places of texts, the most useful first.

    A text's use is how unsure the model is of it (0-1), times how little it is like any text known (1 - cosine), times
    how little it is like any chosen before it: greedy choice, as in farthest-first traversal.
    """
    if not texts:
        return []
    vectors, labelled = _weigh_words(texts, known)
    likeness = (vectors @ labelled.T).max(axis=1).toarray().ravel() if len(known) else np.zeros(len(texts))
    use: Floats = np.maximum(np.asarray(unsure, dtype=np.float64), 1e-6) * (1 - np.minimum(likeness, 0.999))
    chosen: list[int] = []
    free, near = np.ones(len(texts), dtype=bool), np.zeros(len(texts))
    for _ in range(min(CHOSEN, len(texts))):
        best = int(np.argmax(np.where(free, use * (1 - near), -1.0)))
        chosen.append(best)
        free[best] = False
        near = np.maximum(near, np.minimum((vectors @ vectors[[best]].T).toarray().ravel(), 0.999))
    rest = np.flatnonzero(free)
    return [*chosen, *rest[np.argsort(-use[rest], kind="stable")].tolist()]


def _weigh_words(texts: Sequence[str], known: Sequence[str]) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return the words of both, tf-idf of length 1, float64 [N, NUM_WORDS]."""
    rows, words = [], []
    for row, text in enumerate([*texts, *known]):
        found = {_hash(word) for word in _WORD.findall(text.casefold())}
        rows += [row] * len(found)
        words += sorted(found)
    places, num_texts = np.asarray(words, dtype=np.int64), len(texts) + len(known)
    rarity = np.log((1 + num_texts) / (1 + np.bincount(places, minlength=NUM_WORDS))) + 1
    weights = rarity[places]
    lengths = np.sqrt(np.bincount(rows, weights**2, minlength=num_texts)) if rows else np.ones(num_texts)
    values = weights / lengths[np.asarray(rows, dtype=np.int64)]
    counted = sparse.csr_array((values, (rows, places)), shape=(num_texts, NUM_WORDS), dtype=np.float64)
    return counted[: len(texts)], counted[len(texts) :]


def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % NUM_WORDS
