"""Batches for the engine: which texts share one, and their token ids as a matrix.

Shapes: B texts, T tokens.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def group_by_length(lengths: Sequence[int], max_size: int, call_tokens: float | None) -> list[tuple[int, int]]:
    """Return the batches, as (start, end), into which texts sorted by ascending length are cut.

    A batch is padded to its longest text. A cut spares padding and costs a call, which is as dear as `call_tokens`
    tokens: the batches are those of the least cost, none larger than `max_size`. None: full batches, as they come.
    """
    if call_tokens is None:
        return [(start, min(start + max_size, len(lengths))) for start in range(0, len(lengths), max_size)]
    costs, starts = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        best, best_start = float("inf"), end - 1
        for start in range(end - 1, max(end - max_size, 0) - 1, -1):
            if longest - lengths[start] > call_tokens:
                break  # to cut behind this text would spare more than a call, however far the batch goes back
            cost = costs[start] + longest * (end - start)
            if cost <= best:
                best, best_start = cost, start
        costs.append(best + call_tokens)
        starts.append(best_start)
    groups = []
    end = len(lengths)
    while end:
        groups.append((starts[end], end))
        end = starts[end]
    return groups[::-1]


def spread_evenly(num_texts: int, streams: int) -> int:
    """Return the largest batch that leaves two or more for every stream, so that none of them idles at the end."""
    return num_texts if streams == 1 else max(2, -(-num_texts // (2 * streams)))


def pad(ids: Sequence[Sequence[int]], pad_token_id: int, step: int = 1) -> tuple[Ints, Ints]:
    """Pad token ids to the longest of the batch: input_ids and attention_mask, both int64 [B, T], T a multiple of step.

    Engines that prepare themselves for every new shape meet fewer of them with a larger step.
    """
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    longest = -(-int(lengths.max()) // step) * step
    is_token = np.arange(longest) < lengths[:, None]
    input_ids = np.full((len(ids), longest), pad_token_id, dtype=np.int64)
    input_ids[is_token] = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum()))
    return input_ids, is_token.astype(np.int64)
