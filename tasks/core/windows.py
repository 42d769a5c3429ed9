"""Texts longer than the model reads at once: cut into overlapping windows, and their answers put together again.

Shapes: P pieces (windows), B texts, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """What the engine reads of B texts: one piece of most of them, several of a long one."""

    ids: list[list[int]]  # [P] of token ids
    owners: Ints | None  # [P], the text of each piece, ascending; None: every text is one piece
    n_tokens: Ints  # [B], tokens that are read, each of them once
    truncated: npt.NDArray[np.bool_]  # [B], whether a part of the text is not read


def cut(encodings: Sequence[Any], overlap: int | None, num_special: int) -> Pieces:
    """Return what is read of encoded texts: their beginning, or with an `overlap` (in tokens) all of their windows.

    The tokenizer has cut them already: what is beyond the first window is in `overflowing`, special tokens and overlap
    included.
    """
    firsts = [encoding.ids for encoding in encodings]
    n_tokens = np.fromiter(map(len, firsts), dtype=np.int64, count=len(firsts))
    rests = [encoding.overflowing for encoding in encodings]
    if not any(rests) or overlap is None:
        return Pieces(firsts, None, n_tokens, np.fromiter(map(bool, rests), dtype=np.bool_, count=len(rests)))
    ids, owners = [], []
    for number, (first, rest) in enumerate(zip(firsts, rests, strict=True)):
        windows = [first, *(window.ids for window in rest)]
        ids += windows
        owners += [number] * len(windows)
        n_tokens[number] += sum(len(window) - num_special - overlap for window in windows[1:])
    return Pieces(ids, np.array(owners, dtype=np.int64), n_tokens, np.zeros(len(firsts), dtype=np.bool_))


def join_probabilities(probabilities_PC: Floats, pieces: Pieces) -> Floats:
    """Return the probabilities [B, C] of whole texts: the mean over their windows, each counted by its tokens."""
    if pieces.owners is None:
        return probabilities_PC
    weights = _shares(pieces)
    joined = np.zeros((len(pieces.n_tokens), probabilities_PC.shape[1]), dtype=np.float64)
    np.add.at(joined, pieces.owners, probabilities_PC * weights[:, None])
    return joined.astype(np.float32)


def join_closeness(closeness_P: Floats, pieces: Pieces) -> Floats:
    """Return the closeness [B] of whole texts: the median over their windows, each counted by its tokens.

    So a text is out of scope when more than half of it is, and one strange window alone decides nothing.
    """
    if pieces.owners is None:
        return closeness_P
    weights = _shares(pieces)
    joined = np.empty(len(pieces.n_tokens), dtype=np.float32)
    for number in range(len(joined)):
        mine = pieces.owners == number
        order = np.argsort(closeness_P[mine], kind="stable")
        at_most = np.cumsum(weights[mine][order])
        joined[number] = closeness_P[mine][order][int(np.searchsorted(at_most, 0.5 - 1e-9))]
    return joined


def _shares(pieces: Pieces) -> npt.NDArray[np.float64]:
    """Return each piece's share of its text's tokens, [P]; what overlaps counts in both windows."""
    assert pieces.owners is not None
    lengths = np.fromiter(map(len, pieces.ids), dtype=np.float64, count=len(pieces.ids))
    shares: npt.NDArray[np.float64] = lengths / np.bincount(pieces.owners, lengths)[pieces.owners]
    return shares
