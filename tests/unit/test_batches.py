"""Batches: every row once an epoch, the same batches however many processes share them, and texts of similar length."""

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, TensorDataset

from tasks.core.batches import LengthGroupedBatches, order_rows
from tasks.core.errors import DataError


def lengths(num_rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 120, num_rows).astype(np.int32)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_rows", [16, 17, 33, 240, 241, 1000])
def test_all_processes_together_train_the_batches_of_one(num_rows: int, world_size: int) -> None:
    of = lengths(num_rows)
    alone = list(LengthGroupedBatches(of, 16, 5, 1, 0))
    shares = [list(LengthGroupedBatches(of, 16, 5, world_size, rank)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(alone)} == {-(-num_rows // 16)}
    together = [sorted(row for share in shares for row in share[number]) for number in range(len(alone))]
    assert sorted(row for batch in together for row in batch) == list(range(num_rows))
    assert all(share for one in shares for share in one), "a process without rows would hold up the others"
    assert together[:-2] == [sorted(batch) for batch in alone][:-2]


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "world_size"),
    [(100, 8, 8), (9, 8, 8), (17, 9, 8), (100, 15, 8), (33, 10, 6), (23, 5, 4), (8, 8, 8), (7, 3, 2), (21, 10, 8)],
)
def test_no_share_is_empty_where_batches_are_hardly_larger_than_the_processes(
    num_rows: int, batch_size: int, world_size: int
) -> None:
    samplers = [LengthGroupedBatches(lengths(num_rows), batch_size, 5, world_size, rank) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(one) for one in shares} == {len(sampler) for sampler in samplers}
    assert all(share for one in shares for share in one)
    assert sorted(row for one in shares for share in one for row in share) == list(range(num_rows))
    assert max(len(share) for one in shares for share in one) <= -(-batch_size // world_size) + 1


def test_an_epoch_has_an_order_of_its_own_that_comes_again() -> None:
    batches = LengthGroupedBatches(lengths(500), 16, 5, 2, 1)
    first = list(batches)
    batches.set_epoch(1)
    second = list(batches)
    assert first != second
    batches.set_epoch(0)
    assert list(batches) == first


def test_a_resumed_epoch_goes_on_after_the_batches_it_had() -> None:
    batches = LengthGroupedBatches(lengths(100), 16, 5, 2, 0)
    batches.set_epoch(3)
    whole = list(batches)
    fresh = LengthGroupedBatches(lengths(100), 16, 5, 2, 0)
    loader = prepare_data_loader(
        DataLoader(TensorDataset(torch.arange(100)), batch_sampler=fresh), num_processes=1, process_index=0
    )
    rest = skip_first_batches(loader, 2)
    rest.batch_sampler.batch_sampler.set_epoch(3)  # as the Trainer does
    assert [batch[0].tolist() for batch in rest] == whole[2:]


def test_batches_hold_texts_of_similar_length_and_the_longest_comes_first() -> None:
    of = lengths(2000)
    order = order_rows(of, 16, 1)
    assert of[order[0]] == of.max()
    spread = np.mean([np.ptp(of[order[start : start + 16]]) for start in range(0, 2000, 16)])
    by_chance = np.mean([np.ptp(of[start : start + 16]) for start in range(0, 2000, 16)])
    assert spread < by_chance / 10


def test_more_processes_than_rows_in_a_batch_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"training\.batch_size 4 is shared by 8 processes.*EVERTUNE_TRAINING_PROCESSES"
    ):
        LengthGroupedBatches(lengths(100), 4, 5, 8, 0)
