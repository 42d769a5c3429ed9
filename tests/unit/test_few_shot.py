import numpy as np
import pytest

from configs.schema import FewShot
from tasks.core.few_shot import draw_pairs, is_few_shot


@pytest.mark.parametrize(
    ("labels", "mode", "expected"),
    [
        ([0] * 10 + [1] * 10, "auto", True),
        ([0] * 10 + [1] * 200 + [2] * 12, "auto", True),  # the median class, not the largest
        ([0] * 100 + [1] * 100 + [2] * 3, "auto", False),
        ([0] * 10, "auto", False),  # one label: nothing to tell apart
        ([0] * 100 + [1] * 100, "always", True),
        ([0] * 10 + [1] * 10, "never", False),
    ],
)
def test_few_rows_per_class_ask_for_pairs(labels: list[int], mode: str, expected: bool) -> None:
    few_shot = FewShot.model_validate({"mode": mode})
    assert is_few_shot(labels, few_shot) is expected
    assert is_few_shot(labels, few_shot, goes_on=True) is (mode == "always")


def test_pairs_are_asked_for() -> None:
    assert not is_few_shot([0, 1], FewShot())


def test_pairs_tell_truly_whether_labels_are_the_same() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2] * 5)
    pairs = draw_pairs(labels, 6, seed=1)
    one, other, is_same = pairs.T
    assert len(pairs) == len(labels) * 6
    assert ((labels[one] == labels[other]) == is_same.astype(bool)).all()
    assert (one != other).all()
    assert np.bincount(is_same).tolist() == [90, 90]
    assert np.bincount(one).tolist() == [6] * 30


def test_a_row_alone_with_its_label_meets_others_only() -> None:
    pairs = draw_pairs(np.array([0, 1, 1, 1]), 4, seed=1)
    assert (pairs[pairs[:, 0] == 0][:, 2] == 0).all()
    assert len(pairs) == 2 + 3 * 4


def test_one_label_gives_pairs_of_its_own_only() -> None:
    assert set(draw_pairs(np.array([0, 0, 0]), 4, seed=1)[:, 2]) == {1}


def test_the_seed_decides_the_pairs() -> None:
    labels = np.arange(40) % 4
    one, same, other = (draw_pairs(labels, 4, seed).tolist() for seed in (1, 1, 2))
    assert one == same != other
