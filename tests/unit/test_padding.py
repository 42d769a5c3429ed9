from itertools import pairwise

import numpy as np
import pytest

from tasks.core.padding import group_by_length, pad, spread_evenly


def cost(lengths: list[int], groups: list[tuple[int, int]], call_tokens: float) -> float:
    return sum(lengths[end - 1] * (end - start) + call_tokens for start, end in groups)


def cheapest(lengths: list[int], max_size: int, call_tokens: float) -> float:
    """Try every way to cut."""
    if not lengths:
        return 0.0
    sizes = range(1, min(max_size, len(lengths)) + 1)
    return min(lengths[size - 1] * size + call_tokens + cheapest(lengths[size:], max_size, call_tokens)
               for size in sizes)  # fmt: skip


@pytest.mark.parametrize("call_tokens", [0.0, 1.0, 7.5, 30.0, 1e6])
@pytest.mark.parametrize("max_size", [1, 3, 11])
def test_no_other_cut_costs_less(call_tokens: float, max_size: int) -> None:
    random = np.random.default_rng(int(call_tokens) + max_size)
    for _ in range(6):
        lengths = sorted(int(n) for n in random.integers(1, 60, 11))
        groups = group_by_length(lengths, max_size, call_tokens)
        assert [groups[0][0], groups[-1][1]] == [0, 11]
        assert all(before[1] == after[0] for before, after in pairwise(groups))
        assert max(end - start for start, end in groups) <= max_size
        assert cost(lengths, groups, call_tokens) == pytest.approx(cheapest(lengths, max_size, call_tokens))


@pytest.mark.parametrize(
    ("lengths", "max_size", "call_tokens", "groups"),
    [
        ([], 4, 5.0, []),
        ([], 4, None, []),
        ([7], 4, 5.0, [(0, 1)]),
        ([2, 2, 9, 9], 4, None, [(0, 4)]),  # a bundle whose engine was never measured
        ([2, 2, 9, 9], 3, None, [(0, 3), (3, 4)]),
        ([2, 2, 9, 9], 4, 13.0, [(0, 2), (2, 4)]),  # padding the short ones costs 14
        ([2, 2, 9, 9], 4, 15.0, [(0, 4)]),
        ([5, 5, 5], 4, 0.0, [(0, 3)]),  # equal costs: one call
    ],
)
def test_batches(lengths: list[int], max_size: int, call_tokens: float | None, groups: list[tuple[int, int]]) -> None:
    assert group_by_length(lengths, max_size, call_tokens) == groups


def test_ids_are_padded_to_the_longest_or_the_next_step() -> None:
    ids, mask = pad([[5, 6, 7], [8]], 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.dtype(np.int64)
    ids, mask = pad([[5, 6, 7], []], 0, step=4)
    assert ids.tolist() == [[5, 6, 7, 0], [0, 0, 0, 0]]
    assert mask.sum() == 3
    assert pad([[]], 0)[0].shape == (1, 0)


@pytest.mark.parametrize(
    ("num_texts", "streams", "largest"), [(32, 1, 32), (32, 2, 8), (33, 2, 9), (4, 2, 2), (1, 4, 2), (0, 2, 2)]
)
def test_every_stream_gets_two_batches_where_there_are_texts_enough(num_texts: int, streams: int, largest: int) -> None:
    assert spread_evenly(num_texts, streams) == largest
