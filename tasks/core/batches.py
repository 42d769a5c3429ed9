"""Which rows meet in a batch: texts of similar length, in an order that seed and epoch alone decide.

Padding to the longest of such a batch spares most of the work of padding to a fixed length. The order is that of the
whole run: each process takes its share of every batch, so one process and eight train on the same batches.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from tasks.core.errors import DataError

BATCHES_SORTED_TOGETHER = 50  # enough for little padding, few enough for chance


class LengthGroupedBatches(Sampler[list[int]]):
    """One process's share of every batch; over all processes each row comes once per epoch.

    The Trainer's own sampler draws from the global random state, so a run resumed within an epoch would see some rows
    twice and others never; sharded, it repeats rows to fill the last batch.
    """

    def __init__(self, lengths: npt.NDArray[np.int32], batch_size: int, seed: int, world_size: int, rank: int) -> None:
        if batch_size < world_size:
            raise DataError(
                f"training.batch_size {batch_size} is shared by {world_size} processes: some would have no row. "
                "Raise it, or lower EVERTUNE_TRAINING_PROCESSES"
            )
        if len(lengths) < world_size:
            raise DataError(f"{len(lengths)} training rows are too few for {world_size} processes")
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._world_size = world_size
        self._rank = rank
        self._epoch = 0

    def __len__(self) -> int:
        return count_batches(len(self._lengths), self._batch_size, self._world_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = order_rows(self._lengths, self._batch_size, self._seed + self._epoch)
        num_rows, num_batches = len(order), len(self)
        # The last batches lend rows to those behind them, so that nobody waits for an empty share.
        starts = [
            min(number * self._batch_size, num_rows - (num_batches - number) * self._world_size)
            for number in range(num_batches)
        ]
        for start, stop in zip(starts, [*starts[1:], num_rows], strict=True):
            yield order[start:stop][self._rank :: self._world_size].tolist()  # every share has long and short texts

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; accelerate calls this."""
        self._epoch = epoch


def count_batches(num_rows: int, batch_size: int, world_size: int) -> int:
    """Return how many batches an epoch has: as many as give every process a row of each.

    One batch fewer than usual, the last one with the rest on top, where batches are too small to lend each other rows.
    """
    return min(math.ceil(num_rows / batch_size), max(1, num_rows // world_size))


def order_rows(lengths: npt.NDArray[np.int32], batch_size: int, seed: int) -> npt.NDArray[np.int64]:
    """Return all row numbers: shuffled, then sorted by falling length within every few dozen batches.

    The longest row comes first, so that a lack of memory shows at once.
    """
    shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).numpy()
    together = batch_size * max(1, min(len(lengths) // (batch_size * 4), BATCHES_SORTED_TOGETHER))
    blocks = [shuffled[start : start + together] for start in range(0, len(shuffled), together)]
    blocks = [block[np.argsort(-lengths[block], kind="stable")] for block in blocks]
    order: npt.NDArray[np.int64] = np.concatenate(blocks)
    longest = together * int(np.argmax([lengths[block[0]] for block in blocks]))
    order[[0, longest]] = order[[longest, 0]]
    return order
